"""The entry point: `python train.py key=value ...`, with -m and comma lists for a sweep. See README.md."""

import hydra
from omegaconf import DictConfig

from mupl.garbage import no_garbage
from mupl.training.cli import clear_errors, register_parametrizations


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    with no_garbage():
        from mupl.training.run import (
            run,
        )  # torch and lightning: not needed for --help or a wrong key

    with (
        clear_errors()
    ):  # here, as Hydra would print a report of its own around an error that leaves a job
        return run(cfg)


if __name__ == "__main__":
    register_parametrizations()
    with clear_errors():
        main()
