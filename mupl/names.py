"""Names of tensors and modules: the pattern that blocks share, and globs."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from mupl.errors import ConfigError


def block_pattern(name: str) -> str:
    """Return the same name for every block: `blocks.3.mlp.weight` -> `blocks.*.mlp.weight`."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def match_glob(glob: str, names: Iterable[str], key: str) -> list[str]:
    """Return the names that the glob matches.

    Raises:
        ConfigError: naming `key`, if there is none.
    """
    matches = [name for name in names if fnmatchcase(name, glob)]
    if not matches:
        raise ConfigError(
            f"{key}: {glob!r} matches no parameter; the parameters are {', '.join(names)}"
        )
    return matches
