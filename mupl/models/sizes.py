"""Sizes that follow from others: a text such as "4 * width", which holds at every width."""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from mupl.errors import ConfigError, enumerated

Size = int | Sequence[int]


def size_of(key: str, said: Any, known: Mapping[str, Size]) -> Any:
    """Return the size that a text says, or the list of those that a list says.

    Args:
        key: what an error names.
        said: the name of a size, or a product or quotient of such names and whole numbers.
        known: sizes by name; `width` among them.

    Raises:
        ConfigError: on another text, or what is no whole number.

    Example:
        >>> size_of("heads", "width / 32", {"width": 128})
        4
    """
    if isinstance(said, list | tuple):
        return [size_of(key, entry, known) for entry in said]
    if said in known:
        return known[said]
    value = Fraction(1)
    first, *rest = re.split(r"([*/])", str(said))
    for sign, text in zip(["*", *rest[::2]], [first, *rest[1::2]], strict=True):
        factor = int(text) if text.strip().isdecimal() else known.get(text.strip())
        if not isinstance(factor, int) or factor < 1:
            raise ConfigError(
                f"{key}={said}: {text.strip()!r} is no size here; must be a product of whole "
                f"numbers and of {enumerated(known)}, such as '4 * width' or 'width / 32'"
            )
        value = value * factor if sign == "*" else value / factor
    if value.denominator != 1:
        raise ConfigError(
            f"{key}={said}: must be a whole number, and is {float(value):g} at width "
            f"{known['width']}; models are built at the width, the base width and twice that"
        )
    return int(value)
