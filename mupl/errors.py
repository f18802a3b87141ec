"""The exceptions that are the user's to fix."""

import errno

# What a disk answers that is full, over quota or read-only
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class ConfigError(ValueError):
    """Bad input: one line that names the key and says what would be right."""


def bad_input(error: BaseException) -> BaseException:
    """Return the ConfigError that led to `error`, such as one that Hydra wrapped while
    instantiating.

    An error that no ConfigError led to is returned itself.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConfigError):
        cause = cause.__cause__ or cause.__context__
    return cause or error


def disk_error(error: BaseException) -> OSError | None:
    """Return the error of a disk that is full or read-only, if that led to `error`, else None.

    Example:
        >>> disk_error(OSError(errno.ENOSPC, "No space left on device", "runs/result.json"))
        OSError(28, 'No space left on device')
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def disk_message(error: OSError, folder: str) -> str:
    """Say in one line which folder cannot be written to, and what is kept.

    Args:
        folder: of the output, for an error that does not name its file.
    """
    return (
        f"{error.filename or folder}: {error.strerror}; what is done is kept, and the same command "
        "goes on once there can be written"
    )
