"""Colours of series that can be told apart in light and dark, and by the colour-blind."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

# The part of the map that stands out from a white page, and from a dark one
LIGHT = (0.0, 0.8)
DARK = (0.42, 1.0)


def series_colors(count: int) -> list[str]:
    """Return a CSS colour for each of so many series, by luminance from one end to the other.

    The map is viridis, whose order survives every common colour blindness and a grey print.

    >>> series_colors(2)
    ['light-dark(#440154, #287d8e)', 'light-dark(#7ad151, #fde725)']
    """
    return [
        f"light-dark({light}, {dark})"
        for light, dark in zip(_ramp(LIGHT, count), _ramp(DARK, count), strict=True)
    ]


def variables(count: int) -> list[str]:
    """Return the CSS variables that stand for these colours in charts."""
    return [f"var(--s{i})" for i in range(count)]


def style(colors: Sequence[str]) -> str:
    """Return the declarations of the variables.

    >>> style(["red", "blue"])
    '--s0: red; --s1: blue'
    """
    return "; ".join(f"--s{i}: {color}" for i, color in enumerate(colors))


def _ramp(ends: tuple[float, float], count: int) -> list[str]:
    positions = np.linspace(*ends, count)
    return [to_hex(color) for color in colormaps["viridis"](positions)]
