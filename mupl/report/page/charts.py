"""What all charts of a page share: axes, series that can be switched off, lines with bands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.report.page.colors import variables
from mupl.report.page.elements import Panel

HEIGHT = 230  # pixels
IS_SHOWN = "indexof(hidden, datum.series) < 0"  # `hidden` is set by the buttons of the legend
IS_CHOSEN = "datum.choice === choice"  # `choice` by the radio buttons above the charts
TEXTS = ("series", "note")  # fields of rows that are no numbers
TICK_DIGITS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))  # of log axes, the first that suffice
LEAST_TICKS = 3
MOST_TICKS = 7
SMALL = 0.05  # powers of two below are longer than as 2^-n
SIGNIFICANT = 5  # digits of numbers in specifications
CONFIG = {
    "background": "transparent",
    "font": "system-ui, 'DejaVu Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "gridColor": "currentColor",
        "gridOpacity": 0.13,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "labelOverlap": True,
        "labelSeparation": 8,
        "labelLimit": 240,
    },
}


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Args:
        label: with its unit.
        scale: of Vega-Lite: type, domain and so on.
        kind: "Q" for numbers, "O" for choices in order.
        ticks: the values that are labelled; by default a choice of Vega's.
        labels: an expression for their text.
        least_step: the least distance of ticks, 1 where there is nothing between whole numbers.
    """

    label: str
    scale: Mapping[str, Any]
    kind: str = "Q"
    ticks: Sequence[Any] | None = None
    labels: str | None = None
    least_step: float | None = None

    @classmethod
    def of_values(cls, label: str, values: pd.Series) -> "Axis":
        """Return an axis on which all the values are ticks: on a log2 scale if they are numbers."""
        if not is_numeric_dtype(values):
            return cls(label, {"domain": list(dict.fromkeys(values))}, "O")
        if (values <= 0).any():
            return cls(label, {"zero": False})
        ticks = sorted(float(value) for value in values.unique())
        scale = {"type": "log", "base": 2, "domain": [ticks[0] / 1.08, ticks[-1] * 1.08]}
        powers = np.log2(ticks)
        texts = "format(datum.value, '.4~g')"
        if min(ticks) < SMALL and np.allclose(powers, powers.round()):
            texts = "'2^' + round(log(datum.value) / LN2)"
        return cls(label, scale, "Q", ticks, texts)

    @classmethod
    def of_size(cls, label: str, values: pd.Series, base: int = 2) -> "Axis":
        """Return a log axis for positive numbers, with ticks of Vega's choice."""
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = low / 2, high * 2
        low, high = low / 1.15, high * 1.15
        scale = {"type": "log", "base": base, "domain": [low, high]}
        return cls(label, scale, "Q", log_ticks(low, high), "format(datum.value, '.3~g')")

    def encode(self, channel: Any, field: str) -> Any:
        """Return the encoding of a field by this axis, such as `alt.X` of `lr`."""
        options: dict[str, Any] = {}
        if self.ticks is not None:
            options["values"] = list(self.ticks)
        if self.labels is not None:
            options["labelExpr"] = self.labels
        if self.least_step is not None:
            options["tickMinStep"] = self.least_step
        return channel(
            f"{field}:{self.kind}",
            title=self.label,
            scale=alt.Scale(**self.scale),
            axis=alt.Axis(**options),
        )


def log_ticks(low: float, high: float) -> list[float]:
    """Return few round numbers between two positive ones, for a log axis.

    >>> log_ticks(0.004, 3)
    [0.01, 0.1, 1.0]
    >>> log_ticks(0.04, 0.6)
    [0.05, 0.1, 0.2, 0.5]
    """
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    found: list[float] = []
    for digits in TICK_DIGITS:
        ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        found = [float(f"{tick:.3g}") for tick in ticks if low <= tick <= high]
        if len(found) >= LEAST_TICKS:
            break
    return found[:: -(-len(found) // MOST_TICKS) or 1]


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn a frame into plain data with numbers of a few digits, and null where one is missing.

    >>> plain_rows(pd.DataFrame({"loss": [0.123456789, float("inf")], "seed": [0, 1]}))
    [{'loss': 0.12346, 'seed': 0}, {'loss': None, 'seed': 1}]
    """
    columns = {}
    for key, column in table.items():
        if column.dtype.kind == "f":
            columns[str(key)] = [_rounded(value) for value in column]
        else:
            columns[str(key)] = column.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rounded(value: float) -> float | None:
    return float(f"{value:.{SIGNIFICANT}g}") if np.isfinite(value) else None


def color(series: Sequence[str]) -> alt.Color:
    """Return the encoding of series by the colours of the page."""
    names = list(series)
    if len(names) < 2:
        return alt.Color(value="var(--link)")
    scale = alt.Scale(domain=names, range=variables(len(names)))
    return alt.Color("series:N", scale=scale, legend=None)


def base(table: pd.DataFrame) -> alt.Chart:
    """Return a chart of rows, of which layers are made."""
    return alt.Chart(alt.Data(values=plain_rows(table)))


def tooltip(**titles: str) -> list[alt.Tooltip]:
    """List the fields of a hover box: name -> title, with numbers to five digits."""
    boxes = []
    for field, title in titles.items():
        is_number = field not in TEXTS
        options: dict[str, Any] = {"format": ".5~g"} if is_number else {}
        boxes.append(alt.Tooltip(f"{field}:{'Q' if is_number else 'N'}", title=title, **options))
    return boxes


def lines_with_bands(
    chart: alt.Chart,
    x: alt.X,
    y: alt.Y,
    series: Sequence[str],
    hover: Sequence[alt.Tooltip],
    dots: bool = True,
) -> list[alt.Chart]:
    """Return the layers of lines through `y`, with bands from `low` to `high`.

    Args:
        chart: of the rows.
        x, y: the encodings of lines.
        series: all names, in the order of colours.
        hover: the box of a point.
        dots: whether points are marked.
    """
    colors = color(series)
    lines = chart.encode(x=x, color=colors, detail="series:N")
    band = lines.mark_area(opacity=0.22, clip=True).encode(y=band_edge(y), y2="high:Q")
    line = lines.mark_line(strokeWidth=2, clip=True).encode(y=y)
    targets = lines.mark_point(filled=True, size=320, opacity=0, clip=True)  # for fingers
    layers = [band, line, targets.encode(y=y, tooltip=list(hover))]
    if dots:
        layers.append(lines.mark_point(filled=True, size=34, opacity=1, clip=True).encode(y=y))
    return layers


def band_edge(y: alt.Y) -> alt.Y:
    """Return the encoding of the lower edge of a band, on the axis of its line."""
    edge = y.copy()
    edge.shorthand = "low:Q"
    return edge


def panel(
    title: str,
    layers: Sequence[alt.Chart],
    description: str,
    choice: int | None = None,
    height: int = HEIGHT,
) -> Panel:
    """Join layers into the panel of a page.

    Args:
        title: above the panel.
        layers: from back to front.
        description: for readers who do not see it.
        choice: the first value of the signal of that name, if the rows depend on it.
        height: in pixels; the width is the reader's.
    """
    # in each layer, as a filter of the whole would miss layers with rows of their own
    shown = [layer.transform_filter(IS_SHOWN) for layer in layers]
    params = [alt.param(name="hidden", value=[])]
    if choice is not None:
        shown = [layer.transform_filter(IS_CHOSEN) for layer in shown]
        params.append(alt.param(name="choice", value=choice))
    chart = alt.layer(*shown).add_params(*params)
    chart = chart.properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        description=description,
    )
    spec = chart.to_dict()
    spec["config"] = CONFIG
    return Panel(title, spec, description)
