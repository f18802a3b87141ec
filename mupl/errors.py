"""The exceptions that are the user's to fix."""

import errno
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

MUPL = Path(__file__).parent
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
INSTALLED = ("site-packages", "dist-packages")  # names of folders of libraries

# What a disk answers that is full, over quota or read-only
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class ConfigError(ValueError):
    """Bad input: one line that names the key and says what would be right."""


def bad_input(error: BaseException) -> BaseException:
    """Return the ConfigError that led to `error`, such as one that Hydra wrapped while
    instantiating.

    An error that no ConfigError led to is returned itself.
    """
    found = (cause for cause in _causes(error) if isinstance(cause, ConfigError))
    return next(found, error)


def raised_by_user(error: BaseException) -> str:
    """Say in one line what the user's own code raised, and where; "" if mupl raised it.

    What a library raises is laid to the function that called it last.
    """
    said = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        file = Path(code.co_filename)
        if file.is_relative_to(MUPL):
            said = ""
        elif not _is_library(file):
            reason = " ".join(str(error).split())
            name = f"{frame.f_globals.get('__name__')}:{code.co_qualname}"
            said = f"{name} raised {type(error).__name__}: {reason} ({file}:{line})"
    return said


def _is_library(file: Path) -> bool:
    """Say whether code is no one's here: a library's, Python's, or made while it runs."""
    is_installed = any(folder in file.parts for folder in INSTALLED)
    return is_installed or file.is_relative_to(STANDARD_LIBRARY) or str(file).startswith("<")


def disk_error(error: BaseException) -> OSError | None:
    """Return the error of a disk that is full or read-only, if that led to `error`, else None.

    Example:
        >>> disk_error(OSError(errno.ENOSPC, "No space left on device", "runs/result.json"))
        OSError(28, 'No space left on device')
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            return cause
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what led to it, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def enumerated(words: Iterable[str]) -> str:
    """Join words for a message.

    Example:
        >>> enumerated(["width", "depth", "seed"])
        'width, depth and seed'
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def disk_message(error: OSError, folder: str) -> str:
    """Say in one line which folder cannot be written to, and what is kept.

    Args:
        folder: of the output, for an error that does not name its file.
    """
    return (
        f"{error.filename or folder}: {error.strerror}; what is done is kept, and the same command "
        "goes on once there can be written"
    )
