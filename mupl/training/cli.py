"""The command line around a run, and its exit code."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from mupl.hydra_internals import get_args_parser
from mupl.identity import RESULT_FILE
from mupl.names import import_from_working_folder
from mupl.training.clear_errors import clear_errors
from mupl.training.overrides import CONF, refuse_no_config
from mupl.training.processes import is_first_process
from mupl.training.registration import register

DIVERGED = 3  # exit code of a single run whose loss was not finite; bad input has 1


def train_from_command_line() -> None:
    """Train as the arguments of the command line say: one run, or with -m a sweep."""
    import_from_working_folder()
    sys.argv[1:] = overrides_last(sys.argv[1:])
    register()
    with clear_errors():
        refuse_no_config(sys.argv[1:])
        _main()


def overrides_last(arguments: Sequence[str]) -> list[str]:
    """Put options such as -m first: Hydra would know no override behind one that follows another.

    >>> overrides_last(["max_steps=20", "-m", "width=64,128", "--config-dir", "my_conf"])
    ['-m', '--config-dir', 'my_conf', 'max_steps=20', 'width=64,128']
    """
    overrides = get_args_parser().parse_intermixed_args(list(arguments)).overrides
    return [*(word for word in arguments if word not in overrides), *overrides]


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
