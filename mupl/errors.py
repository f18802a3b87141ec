"""The one exception that is the user's to fix."""


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
