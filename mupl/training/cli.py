"""The command line around a run: config groups that follow from tables, and errors of one line."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mupl.errors import ConfigError, bad_input
from mupl.parametrization.tables import TABLES


def register_parametrizations() -> None:
    """A config `parametrization=NAME` for each rule table, so that a new table needs no file of its own."""
    for name in TABLES:
        ConfigStore.instance().store(
            group="parametrization",
            name=name,
            node={
                "_target_": "mupl.parametrization.rules.get_parametrization",
                "name": name,
                "overrides": {},  # glob on parameter names -> cells of the table, e.g. {readout.*: {mult: 1}}
                "lr_adjustment_groups": {},  # name -> {param_filter: glob or globs, scale: number or cell}
            },
        )


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn bad input (exit code 1) and SIGINT (130) into one line on stderr; any other error keeps its traceback."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing its own report
    try:
        yield
    except KeyboardInterrupt:
        print(
            "interrupted: what is done is kept, and a sweep goes on by the same command",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        cause = bad_input(error)
        if not isinstance(cause, ConfigError | HydraException | OmegaConfBaseException):
            raise
        sys.exit("error: " + " ".join(str(cause).split()))
