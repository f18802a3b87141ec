"""The part of a page on hyperparameter transfer: curves, optima and what they say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.analysis import transfer
from mupl.analysis.columns import COLUMNS, in_tables
from mupl.analysis.readings import advice, readings
from mupl.analysis.readout_norms import NORM
from mupl.figures.style import by_rank, with_unit, with_written_names
from mupl.figures.transfer import loss_axis
from mupl.report.losses import Losses
from mupl.report.page.charts import (
    CROSS,
    HIGH,
    PER_SERIES,
    POINT,
    Axis,
    Spec,
    color,
    layer,
    lines_with_bands,
    log_ticks,
    panel,
    tooltip,
)
from mupl.report.page.elements import Charts, Finding, Panel, Section, Table, cell

OCTAVE_DIGITS = 2  # after the point


def transfer_section(losses: Losses) -> tuple[Section | None, list[Finding]]:
    """Return the section, and what is to be said at the top; None if nothing was swept."""
    name = transfer.hyperparameter_name(losses.x)
    nothing_swept = losses.results[losses.x].nunique() < 2
    if nothing_swept or not np.isfinite(losses.curves["mean"]).any():
        return None, []
    parts: list[Finding | str | Charts | Table] = [Curves(losses).charts()]
    if losses.optima.empty:
        parts.append(_best_table(losses))
        return Section(f"Best {name}", parts), list(map(Finding, _best_values(losses)))
    parts += [*_along_size(losses), advice(losses.size_or_width), _best_table(losses)]
    return Section(f"Transfer of the {name}", parts), _findings(losses)


class Curves:
    """Loss against the hyperparameter: a curve a size, a panel for all else that was swept."""

    def __init__(self, losses: Losses) -> None:
        self.losses = losses
        self.size = losses.size_or_width
        table = by_rank(losses.curves)
        keys = [key for key in losses.keys if key != self.size]
        panel_keys = transfer.differing_keys(losses.results, keys)
        table["panel"] = transfer.labels(with_written_names(table[panel_keys]))
        table["series"] = table[self.size].astype(str)
        best = table.groupby(["panel", "series"])["mean"].idxmin()
        table["best"] = table.index.isin(best) & np.isfinite(table["mean"])
        self.table = table
        self.series = list(dict.fromkeys(table.sort_values(self.size)["series"]))
        finite = table[np.isfinite(table["mean"])]
        worst_best = finite.loc[finite["best"], "mean"].max()
        limits = loss_axis(finite, worst_best, losses.keys, losses.x)
        self.x = Axis.of_values(transfer.hyperparameter_name(losses.x), table[losses.x])
        self.y = _loss_axis(with_unit(losses.metric, losses.unit), limits)

    def charts(self) -> Charts:
        """Return the charts of all panels, with the legend of sizes."""
        panels = [
            self._panel(str(title), rows) for title, rows in self.table.groupby("panel", sort=False)
        ]
        x = self.losses.x
        name = transfer.hyperparameter_name(x)
        along = transfer.SIZES.get(self.size, self.size)
        caption = (
            f"Final loss against the {name}. A line is the mean over seeds, a band their range, "
            f"and a star the best {name} of its {along}. A cross marks what diverged. All panels "
            "have the same axes, which end above the losses at the smallest value."
        )
        return Charts(
            caption,
            panels,
            series=self.series,
            legend=along,
            table=Table.of("All points of the curves", self._points()),
        )

    def _points(self) -> pd.DataFrame:
        columns = ["panel", self.size, self.losses.x, "mean", "min", "max", "seeds"]
        mean = f"mean {self.losses.metric}"
        return self.table[columns].rename(columns={"panel": "of", "mean": mean})

    def _panel(self, title: str, rows: pd.DataFrame) -> Panel:
        x = self.losses.x
        finite = rows[np.isfinite(rows["mean"])]
        points = finite.rename(columns={"mean": "loss", "min": "low", "max": "high", x: "x"})
        points = points[["series", "x", "loss", "low", "high", "seeds", "best"]]
        at_x = self.x.encode("x")
        loss = self.y.encode("loss")
        hover = _hover(self.size, x)
        layers = lines_with_bands(at_x, loss, self.series, hover)
        stars = {"x": at_x, "y": loss, "color": color(self.series), "tooltip": hover}
        layers.append(layer(STAR, stars, "datum.best"))
        diverged = _diverged(rows, x, self.size)
        if not diverged.empty:
            crosses = {
                "x": at_x,
                "y": {"value": 4},
                "color": {"value": "currentColor"},
                "tooltip": tooltip(x=transfer.hyperparameter_name(x), note="diverged at"),
            }
            layers.append(layer(CROSS | {"size": 60}, crosses, rows=diverged))
        return panel(title, points, layers, self._description(title, finite))

    def _description(self, title: str, finite: pd.DataFrame) -> str:
        x = self.losses.x
        said = []
        for row in finite[finite["best"]].to_dict("records"):
            said.append(f"{self.size} {row['series']}: best {row[x]}, loss {row['mean']:.4g}")
        return f"{title}. {'; '.join(said)}."


# A star of five points, as a path in a square of side 2 around 0
STAR_PATH = (
    "M0,-1L0.235,-0.324L0.951,-0.309L0.380,0.124L0.588,0.809L0,0.4L-0.588,0.809"
    "L-0.380,0.124L-0.951,-0.309L-0.235,-0.324Z"
)
STAR = POINT | {"shape": STAR_PATH, "size": 170, "stroke": "currentColor", "strokeWidth": 1}


def _loss_axis(label: str, limits: Mapping[str, Any]) -> Axis:
    """Return the axis that matplotlib's `limits` describe."""
    if "ylim" not in limits:
        return Axis(label, {"zero": False})
    low, high = map(float, limits["ylim"])
    scale: dict[str, Any] = {"domain": [low, high], "nice": False}
    if limits.get("yscale") == "log":
        scale["type"] = "log"
        ticks = log_ticks(low, high)
        return Axis(label, scale, ticks=ticks, labels="format(datum.value, '.3~g')")
    return Axis(label, scale | {"zero": False})


def _hover(size: str, x: str) -> list[Spec]:
    along = transfer.SIZES.get(size, size)
    name = transfer.hyperparameter_name(x)
    return tooltip(series=along, x=name, loss="loss", low="lowest", high="highest", seeds="seeds")


def _diverged(rows: pd.DataFrame, x: str, size: str) -> pd.DataFrame:
    """Return the values of x at which runs diverged, each with the sizes of which they are."""
    lost = rows[~np.isfinite(rows["mean"])]
    along = transfer.SIZES.get(size, size)
    found = lost.groupby(x, sort=False)["series"].agg(", ".join)
    notes = [f"{along} {sizes}" for sizes in found]
    return pd.DataFrame({"x": found.index, "note": notes, "series": ""})


def _findings(losses: Losses) -> list[Finding]:
    if losses.transfer.empty:
        return []
    said = readings(
        with_written_names(by_rank(losses.optima)),
        with_written_names(by_rank(losses.transfer)),
        losses.series_keys,
        losses.size_or_width,
        losses.x,
    )
    findings = []
    for text in said:
        warning = text.removeprefix("warning: ")
        findings.append(Finding(warning, "warn" if warning != text else ""))
    return findings


def _best_values(losses: Losses) -> Iterator[str]:
    """Say the best value of each curve, where there is one size."""
    best = losses.best
    name = transfer.hyperparameter_name(losses.x)
    keys = transfer.differing_keys(best, losses.keys)
    names = transfer.labels(with_written_names(best[keys]))
    for series, row in zip(names, best.to_dict("records"), strict=True):
        edge = ", at the edge of the grid: try values beyond" if row["at_edge"] else ""
        loss = f"{cell(row[losses.metric])} {losses.unit}".rstrip()
        yield f"{series}: best {name} {cell(row[losses.x])}{edge}; {losses.metric} {loss}"


def _along_size(losses: Losses) -> list[Charts | Table]:
    """Chart the optimum and its loss against size, and tabulate how it transfers."""
    size = losses.size_or_width
    x = losses.x
    optima = by_rank(losses.optima)
    names = transfer.differing_keys(optima, losses.series_keys)
    optima = optima.assign(series=transfer.labels(with_written_names(optima[names])))
    series = list(dict.fromkeys(optima["series"]))
    along = transfer.SIZES.get(size, size)
    name = transfer.hyperparameter_name(x)
    panels = []
    if is_numeric_dtype(optima[x]):
        title = f"Best {name} against {along}"
        panels.append(against_size(title, name, optima, size, x, series))
    title = f"Best loss against {along}"
    label = with_unit(losses.metric, losses.unit)
    panels.append(against_size(title, label, optima, size, "loss", series))
    if NORM in optima:
        title = f"Norm of the readout at the best {name}"
        panels.append(against_size(title, "RMS to infinity norm", optima, size, NORM, series))
    caption = (
        f"Left: the {name} at the lowest point of each curve, between grid points by a parabola; "
        "bars are 95 % intervals over seeds. A flat line transfers."
        if is_numeric_dtype(optima[x])
        else ""
    )
    parts: list[Charts | Table] = [Charts(caption, panels, series=series, legend="series")]
    if not losses.transfer.empty:
        parts += _transfer_tables(by_rank(losses.transfer), names, x, size)
    return parts


def _transfer_tables(table: pd.DataFrame, names: Sequence[str], x: str, size: str) -> list[Table]:
    """Tabulate how well each series transfers, and what the columns mean."""
    shown = with_written_names(table)
    for key in COLUMNS:
        ends = in_tables(key)
        if len(ends) == 2 and ends[0] in table:
            shown[key] = _intervals(table[ends[0]], table[ends[1]])
    for key in ("drift", "norm_drift"):
        if key in table:
            shown[key] = _octaves(table[key])
    known = shown.replace("", None).notna().any()
    kept = {key: column for key, column in COLUMNS.items() if known.get(key, False)}
    titles = {key: column.title for key, column in kept.items()}
    meanings = [[column.title, column.means(x, size)] for column in kept.values()]
    along = transfer.SIZES.get(size, size)
    caption = f"How the {transfer.hyperparameter_name(x)} transfers along {along}"
    return [
        Table.of(caption, shown[[*names, *kept]].rename(columns=titles), is_open=True),
        Table("What these columns mean", ["column", "what it is"], meanings),
    ]


def _intervals(lows: pd.Series, highs: pd.Series) -> list[str]:
    r"""Write intervals of octaves, which no line breaks; "" where one is not known.

    >>> _intervals(pd.Series([-0.5, float("nan")]), pd.Series([0.25, 1.0]))
    ['-0.5\xa0to\xa00.25', '']
    """
    found = []
    for low, high in zip(_octaves(lows), _octaves(highs), strict=True):
        found.append(f"{low:g}\u00a0to\u00a0{high:g}" if np.isfinite([low, high]).all() else "")
    return found


def _octaves(values: pd.Series) -> pd.Series:
    return values.round(OCTAVE_DIGITS) + 0.0  # no -0


def against_size(
    title: str, label: str, optima: pd.DataFrame, size: str, y: str, series: Sequence[str]
) -> Panel:
    """Chart a column `y` of optima, with the intervals y_low and y_high, against size.

    Args:
        title, label: of the chart and of its vertical axis.
        optima: a row a size and series.
        size, y: columns.
        series: in the order of their colours.
    """
    table = optima.rename(columns={size: "size", y: "value"})
    table["low"] = optima.get(f"{y}_low", np.nan)
    table["high"] = optima.get(f"{y}_high", np.nan)
    along = transfer.SIZES.get(size, size)
    ends = pd.concat([table["value"], table["low"], table["high"]]).dropna()
    vertical = Axis(label, {"zero": False}) if y == "loss" else Axis.of_size(label, ends)
    at_x = Axis.of_values(along, table["size"]).encode("size")
    at_y = vertical.encode("value")
    lines: Spec = {"x": at_x, "y": at_y, "color": color(series), "detail": PER_SERIES}
    hover = tooltip(series="series", size=along, value=label, low="95 % low", high="95 % high")
    layers = [
        layer({"type": "line", "strokeWidth": 2}, lines),
        layer(POINT | {"size": 50}, lines | {"tooltip": hover}),
    ]
    if table["low"].notna().any():
        bars = lines | {"y": at_y | {"field": "low"}, "y2": HIGH}
        layers.append(layer({"type": "rule", "strokeWidth": 1.5}, bars, "datum.low !== null"))
    said = [f"{row.series}, {along} {row.size}: {row.value:.4g}" for row in table.itertuples()]
    points = table[["series", "size", "value", "low", "high"]]
    return panel(title, points, layers, f"{title}. {'; '.join(said)}.")


def _best_table(losses: Losses) -> Table:
    best = with_written_names(losses.best)
    if not is_numeric_dtype(best[losses.x]):
        best = best.drop(columns="at_edge")
    return Table.of(f"Best {transfer.hyperparameter_name(losses.x)} of each curve", best)
