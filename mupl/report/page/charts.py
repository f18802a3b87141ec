"""What all charts of a page share: axes, series that can be switched off, lines with bands.

A chart is a specification of Vega-Lite, in plain dicts: layers of marks, each with an encoding that
says which field of the rows goes where (https://vega.github.io/vega-lite/docs).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.figures.style import is_by_octaves
from mupl.report.page.colors import variables
from mupl.report.page.elements import Panel

Spec = dict[str, Any]  # a specification, or a part of one

HEIGHT = 230  # pixels
POINT: Spec = {"type": "point", "filled": True, "opacity": 1}
CROSS: Spec = {"type": "point", "filled": True, "shape": "cross", "angle": 45}
HIGH: Spec = {"field": "high"}  # the upper edge of a band
PER_SERIES: Spec = {"field": "series", "type": "nominal"}
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
        kind: "quantitative" for numbers, "ordinal" for choices in order.
        ticks: the values that are labelled; by default a choice of Vega's.
        labels: an expression for their text.
        least_step: the least distance of ticks, 1 where there is nothing between whole numbers.
    """

    label: str
    scale: Mapping[str, Any]
    kind: str = "quantitative"
    ticks: Sequence[Any] | None = None
    labels: str | None = None
    least_step: float | None = None

    @classmethod
    def of_values(cls, label: str, values: pd.Series) -> "Axis":
        """Return an axis on which all the values are ticks: on a log2 scale if they are numbers."""
        if not is_numeric_dtype(values):
            return cls(label, {"domain": list(dict.fromkeys(values))}, "ordinal")
        if (values <= 0).any():
            return cls(label, {"zero": False})
        ticks = sorted(float(value) for value in values.unique())
        scale = {"type": "log", "base": 2, "domain": [ticks[0] / 1.08, ticks[-1] * 1.08]}
        texts = "format(datum.value, '.4~g')"
        if min(ticks) < SMALL and is_by_octaves(ticks):
            texts = "'2^' + round(4 * log(datum.value) / LN2) / 4"
        return cls(label, scale, ticks=ticks, labels=texts)

    @classmethod
    def of_size(cls, label: str, values: pd.Series, base: int = 2) -> "Axis":
        """Return a log axis for positive numbers, with ticks of Vega's choice."""
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = low / 2, high * 2
        low, high = low / 1.15, high * 1.15
        scale = {"type": "log", "base": base, "domain": [low, high]}
        ticks = log_ticks(low, high)
        return cls(label, scale, ticks=ticks, labels="format(datum.value, '.3~g')")

    def encode(self, field: str) -> Spec:
        """Return the encoding of a field by this axis."""
        options: Spec = {}
        if self.ticks is not None:
            options["values"] = list(self.ticks)
        if self.labels is not None:
            options["labelExpr"] = self.labels
        if self.least_step is not None:
            options["tickMinStep"] = self.least_step
        return {
            "field": field,
            "type": self.kind,
            "title": self.label,
            "scale": dict(self.scale),
            "axis": options,
        }


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


def color(series: Sequence[str]) -> Spec:
    """Return the encoding of series by the colours of the page."""
    names = list(series)
    if len(names) < 2:
        return {"value": "var(--link)"}
    scale = {"domain": names, "range": variables(len(names))}
    return {**PER_SERIES, "scale": scale, "legend": None}


def tooltip(**titles: str) -> list[Spec]:
    """List the fields of a hover box: name -> title, with numbers to five digits."""
    boxes = []
    for field, title in titles.items():
        box: Spec = {"field": field, "type": "nominal", "title": title}
        if field not in TEXTS:
            box |= {"type": "quantitative", "format": ".5~g"}
        boxes.append(box)
    return boxes


def layer(mark: Spec, encoding: Spec, only: str = "", rows: pd.DataFrame | None = None) -> Spec:
    """Return a layer of marks.

    Args:
        mark: its type and properties.
        encoding: channel -> the field or the value that it shows.
        only: an expression for the rows that have a mark; by default all have.
        rows: of the layer; by default the panel's rows.
    """
    made: Spec = {"mark": mark, "encoding": encoding}
    if only:
        made["transform"] = [{"filter": only}]
    if rows is not None:
        made["data"] = {"values": plain_rows(rows)}
    return made


def lines_with_bands(
    x: Spec, y: Spec, series: Sequence[str], hover: Sequence[Spec], dots: bool = True
) -> list[Spec]:
    """Return the layers of lines through `y`, with bands from `low` to `high`.

    Args:
        x, y: the encodings of lines.
        series: all names, in the order of colours.
        hover: the box of a point.
        dots: whether points are marked.
    """
    lines: Spec = {"x": x, "y": y, "color": color(series), "detail": PER_SERIES}
    band = lines | {"y": y | {"field": "low"}, "y2": HIGH}
    for_fingers = POINT | {"size": 320, "opacity": 0, "clip": True}
    layers = [
        layer({"type": "area", "opacity": 0.22, "clip": True}, band),
        layer({"type": "line", "strokeWidth": 2, "clip": True}, lines),
        layer(for_fingers, lines | {"tooltip": hover}),
    ]
    if dots:
        layers.append(layer(POINT | {"size": 34, "clip": True}, lines))
    return layers


def panel(
    title: str,
    rows: pd.DataFrame,
    layers: Sequence[Spec],
    description: str,
    choice: int | None = None,
    height: int = HEIGHT,
) -> Panel:
    """Join layers into the panel of a page.

    Args:
        title: above the panel.
        rows: which all layers show that have none of their own.
        layers: from back to front.
        description: for readers who do not see it.
        choice: the first value of the signal of that name, if the rows depend on it.
        height: in pixels; the width is the reader's.
    """
    filters = [{"filter": IS_SHOWN}]
    params: list[Spec] = [{"name": "hidden", "value": []}]
    if choice is not None:
        filters.append({"filter": IS_CHOSEN})
        params.append({"name": "choice", "value": choice})
    shown = []
    for part in layers:
        # in each layer, as a filter of the whole would miss layers with rows of their own
        shown.append(part | {"transform": [*part.get("transform", ()), *filters]})
    spec = {
        "data": {"values": plain_rows(rows)},
        "layer": shown,
        "params": params,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "description": description,
        "config": CONFIG,
    }
    return Panel(title, spec, description)
