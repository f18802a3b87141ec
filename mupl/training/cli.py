"""The command line around a run, and its exit code."""

import json
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mupl.identity import RESULT_FILE
from mupl.training.clear_errors import clear_errors
from mupl.training.overrides import CONF
from mupl.training.processes import is_first_process
from mupl.training.registration import register

DIVERGED = 3  # exit code of a single run whose loss was not finite; bad input has 1


def train_from_command_line() -> None:
    """Train as the arguments of the command line say: one run, or with -m a sweep."""
    register()
    with clear_errors():
        _main()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _main(cfg: DictConfig) -> float | None:
    # torch and lightning: not needed for --help or a wrong key
    from mupl.training.run import run

    # inside too, as Hydra would print a report of its own around an error that leaves a job
    with clear_errors():
        objective = run(cfg)
    _exit_if_diverged()
    return objective


def _exit_if_diverged() -> None:
    """Exit with `DIVERGED` after a single run that diverged; a sweep has it in its table."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN or not is_first_process():
        return
    file = Path(hydra_config.runtime.output_dir, RESULT_FILE)
    if json.loads(file.read_text())["status"] == "diverged":
        sys.exit(DIVERGED)
