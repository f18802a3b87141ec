"""What ends a command line, in one line: bad input, a full disk, a signal."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mupl import signals
from mupl.errors import ConfigError, bad_input, disk_error, disk_message, raised_by_user
from mupl.training.overrides import as_typed, in_plain_words
from mupl.training.processes import is_first_process

OF_CONFIGS = (HydraException, OmegaConfBaseException, YAMLError)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn bad input and a full disk (exit code 1), and a signal (128 + its number) into one line.

    Any other error keeps its traceback. One of the user's own code ends with a line that names it.
    """
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it prints what is raised as well
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing its own report
    try:
        with signals.raised():
            yield
    except signals.Interrupted as interrupted:
        text = "what is done is kept, and a sweep goes on by the same command"
        if not is_first_process():  # the first one says it
            sys.exit(128 + interrupted.number)
        signals.leave(interrupted.number, interrupted.text or text)
    except Exception as error:
        full = disk_error(error)
        if full is not None:
            sys.exit(f"error: {disk_message(full, _output_folder(error))}")
        cause = bad_input(error)
        said = error_line(error)
        if not said:
            raise
        if isinstance(cause, ConfigError) and not is_first_process():
            sys.exit(1)
        if not isinstance(cause, (ConfigError, *OF_CONFIGS)):
            traceback.print_exc()  # how the user's own code came to be called
        sys.exit(f"error: {said}")


def error_line(error: BaseException) -> str:
    """Say in one line what is wrong, if it is the user's to mend; "" if the error is mupl's own."""
    cause = bad_input(error)
    if isinstance(cause, ConfigError):
        return as_typed(" ".join(str(cause).split()))
    if isinstance(cause, OF_CONFIGS):
        return in_plain_words(cause)
    return raised_by_user(error)


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
