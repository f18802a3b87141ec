"""The command line around a run: what Hydra must know beforehand, and errors of one line."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mupl.errors import ConfigError, bad_input
from mupl.identity import register_resolvers
from mupl.parametrization.tables import TABLES


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
    """Turn bad input (exit code 1) and SIGINT (130) into one line on stderr.

    Any other error keeps its traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing its own report
    try:
        yield
    except KeyboardInterrupt:
        text = "interrupted: what is done is kept, and a sweep goes on by the same command"
        print(text, file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        cause = bad_input(error)
        if not isinstance(cause, ConfigError | HydraException | OmegaConfBaseException):
            raise
        one_line = " ".join(str(cause).split())
        sys.exit(f"error: {one_line}")
