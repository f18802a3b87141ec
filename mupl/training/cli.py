"""The command line around a run: what Hydra must know beforehand, and errors of one line."""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mupl import signals
from mupl.errors import ConfigError, bad_input, disk_error, disk_message
from mupl.identity import RESULT_FILE, register_resolvers
from mupl.parametrization.tables import TABLES
from mupl.training.overrides import CONF, in_plain_words

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
    if hydra_config.mode is RunMode.MULTIRUN:
        return
    file = Path(hydra_config.runtime.output_dir, RESULT_FILE)
    if json.loads(file.read_text())["status"] == "diverged":
        sys.exit(DIVERGED)


def register() -> None:
    """Tell Hydra of what conf/ needs but does not hold: rule tables and names of folders."""
    register_parametrizations()
    register_resolvers()


def register_parametrizations() -> None:
    """Add a config `parametrization=NAME` for each rule table, which needs no file then."""
    for name in TABLES:
        config = {
            "_target_": "mupl.parametrization.rules.get_parametrization",
            "name": name,
            # glob on parameter names -> cells of the table, e.g. {readout.*: {mult: 1}}
            "overrides": {},
            # name -> {param_filter: glob or globs, scale: number or cell}
            "lr_adjustment_groups": {},
        }
        ConfigStore.instance().store(group="parametrization", name=name, node=config)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn bad input and a full disk (exit code 1), and a signal (128 + its number) into one line.

    Any other error keeps its traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing its own report
    try:
        with signals.raised():
            yield
    except signals.Interrupted as interrupted:
        text = "what is done is kept, and a sweep goes on by the same command"
        signals.leave(interrupted.number, text)
    except Exception as error:
        full = disk_error(error)
        if full is not None:
            sys.exit(f"error: {disk_message(full, _output_folder(error))}")
        cause = bad_input(error)
        if isinstance(cause, ConfigError):
            sys.exit(f"error: {' '.join(str(cause).split())}")
        if not isinstance(cause, HydraException | OmegaConfBaseException):
            raise
        sys.exit(f"error: {in_plain_words(cause)}")


def _output_folder(error: BaseException) -> str:
    """Name the folder or file that was written to, which an error of a full disk leaves open."""
    if HydraConfig.initialized():
        return str(HydraConfig.get().runtime.output_dir)
    folder: object = "the output folder"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        # the folder in which Hydra saves the config of a job, or the path that pathlib writes
        for name in ("output_dir", "self"):
            value = frame.f_locals.get(name)
            folder = value if isinstance(value, str | Path) else folder
    return str(folder)
