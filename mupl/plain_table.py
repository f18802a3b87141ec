"""Tables as plain text."""

from collections.abc import Mapping, Sequence
from typing import Any


def cell(value: Any) -> str:
    """Return a value as tables show it: numbers with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def aligned(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows of equal keys: texts on the left, numbers on the right.

    Example:
        >>> print(aligned([{"name": "weight", "lr": 0.1}, {"name": "bias", "lr": 0.00025}]))
        name         lr
        weight      0.1
        bias    0.00025
    """
    columns = []
    for key, first in rows[0].items():
        texts = [str(key), *(cell(row[key]) for row in rows)]
        side = "<" if isinstance(first, str) else ">"
        columns.append([f"{text:{side}{max(map(len, texts))}}" for text in texts])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))
