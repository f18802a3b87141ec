"""The entry point: `python train.py key=value ...`, with -m and comma lists for a sweep."""

import hydra
from omegaconf import DictConfig

from mupl.training.cli import clear_errors, register


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    # torch and lightning: not needed for --help or a wrong key
    from mupl.training.run import run

    # inside too, as Hydra would print a report of its own around an error that leaves a job
    with clear_errors():
        return run(cfg)


if __name__ == "__main__":
    register()
    with clear_errors():
        main()
