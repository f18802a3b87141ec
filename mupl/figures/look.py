"""How figures are written: formats, size and font, as a config or a command asks for."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mupl.errors import ConfigError

FORMATS = ("png", "pdf", "svg")
DPI = 150  # of PNG
# What all figures have, in the words of matplotlib. The look of white panels with a light grid is
# seaborn's "whitegrid", written out here: to import seaborn takes longer than to plot a sweep.
RC = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": ".8",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": ".15",
    "grid.color": ".8",
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "text.color": ".15",
    "xtick.bottom": False,
    "xtick.color": ".15",
    "ytick.left": False,
    "ytick.color": ".15",
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "sans-serif"],
    # text of PDF and SVG stays text, which editors of papers can change
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Look:
    """How figures are written.

    Args:
        formats: of `FORMATS`; each figure is written in all of them.
        size: width in inches, at which the height follows, or width and height; () for a size
            that follows from the number of panels.
        family: the font; "" for matplotlib's.
        points: the size of the font; 0 for matplotlib's.
    """

    formats: tuple[str, ...] = ("png",)
    size: tuple[float, ...] = ()
    family: str = ""
    points: float = 0.0

    @classmethod
    def of(cls, options: Mapping[str, Any] | None, prefix: str = "figure.") -> "Look":
        """Read the options format, size and font.

        Args:
            options: as a config or a command line gives them; missing ones have their default.
            prefix: of the names of options, for errors.

        Raises:
            ConfigError: naming the option that is wrong.

        >>> Look.of({"format": "pdf,png", "size": 5.5, "font": "serif 9"})
        Look(formats=('pdf', 'png'), size=(5.5,), family='serif', points=9.0)
        """
        given = options or {}
        family, points = _font(given.get("font"), prefix)
        formats = _formats(given.get("format") or "png", prefix)
        return cls(formats, _size(given.get("size"), prefix), family, points)

    def files(self, file: Path) -> list[Path]:
        """Return the files that a figure of this name is written to.

        >>> [file.name for file in Look(("pdf", "svg")).files(Path("lr_transfer.png"))]
        ['lr_transfer.pdf', 'lr_transfer.svg']
        """
        return [file.with_suffix(f".{ending}") for ending in self.formats]


_LOOK: ContextVar[Look] = ContextVar("look", default=Look())  # noqa: B039 (frozen)


def current_look() -> Look:
    """Return how figures are to be written now."""
    return _LOOK.get()


@contextmanager
def looking(look: Look) -> Iterator[None]:
    """Write the figures within as `look` says."""
    token = _LOOK.set(look)
    try:
        yield
    finally:
        _LOOK.reset(token)


@contextmanager
def styled() -> Iterator[None]:
    """Plot the figures within in the one style that all have, in the font that is asked for."""
    import matplotlib.pyplot as plt

    look = current_look()
    options: Any = {**RC}  # keys of matplotlib, in a type of its own
    if look.family:
        _note_missing(look.family)
        options["font.family"] = look.family
    if look.points:
        options["font.size"] = look.points
        for part in ("axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"):
            options[part] = look.points
        options["legend.title_fontsize"] = options["axes.titlesize"] = look.points
    with plt.rc_context(options):
        yield


@cache  # so that it is said once
def _note_missing(family: str) -> None:
    """Say in a line that there is no such font here; matplotlib would log one for each text."""
    from matplotlib.font_manager import FontProperties, findfont

    try:
        findfont(FontProperties(family=[family]), fallback_to_default=False)
    except ValueError:
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        text = f"note: font {family!r}: none of that name is installed; figures show another"
        print(text, file=sys.stderr, flush=True)


def _formats(given: Any, prefix: str) -> tuple[str, ...]:
    texts = given.split(",") if isinstance(given, str) else list(given)
    formats = tuple(str(text).strip() for text in texts)
    if not formats or set(formats) - set(FORMATS):
        raise ConfigError(f"{prefix}format={given}: must be of {', '.join(FORMATS)}")
    return formats


def _size(given: Any, prefix: str) -> tuple[float, ...]:
    if given is None:
        return ()
    parts: Sequence[Any] = [given]
    if isinstance(given, str):
        parts = given.split(",")
    elif not isinstance(given, int | float):
        parts = list(given)
    try:
        size = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        size = ()
    if len(size) not in (1, 2) or not all(0 < inches < 100 for inches in size):
        raise ConfigError(
            f"{prefix}size={given}: must be inches, a width such as 5.5 or width and height"
        )
    return size


def _font(given: Any, prefix: str) -> tuple[str, float]:
    """Read a font such as "serif", 9 or "Times New Roman 9"."""
    if given is None:
        return "", 0.0
    words = str(given).split()
    points = 0.0
    try:
        points = float(words[-1])
        words = words[:-1]
    except (IndexError, ValueError):
        pass
    if (not words and not points) or not 0 <= points < 100:
        raise ConfigError(f'{prefix}font={given}: must be a font and points, such as "serif 9"')
    return " ".join(words), points
