"""The figures of coordinate checks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mupl.analysis.coordinates import FAIL, over_blocks
from mupl.figures.look import styled
from mupl.figures.style import MOST_LINES, chosen_lines, with_written_names
from mupl.names import block_pattern

if TYPE_CHECKING:  # to import seaborn takes longer than the page of a sweep, which needs the rest
    from seaborn import FacetGrid

# (kind, whether of biases) -> label of a row of panels, from top to bottom. A line of a label that
# is longer than a panel is high would make all panels shrink.
PANELS = {
    ("output", False): "layer outputs",
    ("logits", False): "logits",
    ("attention_logits", False): "attention logits",
    ("effective", False): "own part\n(W_t - W_0) x_t",
    ("propagating", False): "part of the input\nW_0 (x_t - x_0)",
    ("param", False): "weights W",
    ("update", False): "weight changes ΔW",
    ("param", True): "biases b",
    ("update", True): "bias changes Δb",
}
FAILED = "#c1121f"  # colour of the marks of lines that fail
STATISTICS = {"l1": "mean |x|"}  # labels of statistics that are not their names


def plot_coordinates(
    rows: pd.DataFrame,
    title: str,
    statistic: str = "l1",
    along: str = "width",
    verdict: pd.DataFrame | None = None,
) -> Figure:
    """Plot the size of the coordinates against width on log2 axes.

    There is a row of panels for each kind, a column for each step t, and a line for each layer, at
    most ten: blocks are averaged, and of still more layers some are left out, none that fails.
    Lines are medians over seeds, bands their range. The slope that is predicted is dashed; crosses
    mark lines that fail. Values that are 0 are not shown.

    Args:
        rows: of recorders, with columns width (or depth) and seed.
        title: of the figure.
        statistic: the one that is plotted.
        along: "width" or "depth".
        verdict: of `mupl.analysis.coordinates.verdict`; layers that it does not pass are marked as
            failed or not judged in the legend.

    >>> rows = pd.DataFrame({"width": [64, 128], "value": [1.0, 0.5]})
    >>> rows = rows.assign(seed=0, t=0, kind="update", name="up.weight", statistic="l1")
    >>> figure = plot_coordinates(rows, "mup")
    >>> figure.axes[0].get_xscale()
    'log'
    """
    table = _lines(rows, statistic, verdict)
    if verdict is not None:
        words = _words(verdict)
        table["layer"] = [f"{x}: {words[x]}" if x in words else x for x in table["layer"]]
    grid = _plot_layers(table, statistic, along, col="t", height=2.4, aspect=1.3)
    grid.set_titles(row_template="{row_name}", col_template="after update {col_name}")
    grid.figure.suptitle(title, y=1.02)
    return grid.figure


def plot_checks(
    rows: pd.DataFrame,
    verdict: pd.DataFrame,
    statistic: str = "l1",
    along: str = "width",
) -> Figure:
    """Plot checks beside one another, such as of SP and of muP, after the last update of each.

    There is a row of panels for each kind, whose axes are the same, and a column for each check.
    Lines and marks are as in `plot_coordinates`.

    Args:
        rows: of recorders, with columns check (its label), width (or depth) and seed.
        verdict: of `mupl.analysis.coordinates.verdict`, with the column check.
        statistic: the one that is plotted.
        along: "width" or "depth".

    >>> rows = pd.DataFrame({"width": [64, 128] * 2, "value": [1.0, 0.5] * 2, "t": 1})
    >>> rows = rows.assign(seed=0, kind="update", name="up", statistic="l1", low=0.0, high=0.0)
    >>> rows["check"] = ["SP", "SP", "muP", "muP"]
    >>> judged = pd.DataFrame(columns=["check", "kind", "name", "t", "verdict"])
    >>> figure = plot_checks(rows, judged)
    >>> [text.get_text() for text in figure.axes[0].texts + figure.axes[1].texts]
    ['weight changes ΔW']
    """
    last = rows["t"] == rows.groupby("check")["t"].transform("max")
    table = _lines(rows[last], statistic, verdict)
    grid = _plot_layers(table, statistic, along, col="check", height=2.2, aspect=1.4)
    grid.set_titles(row_template="{row_name}", col_template="{col_name}")
    return grid.figure


def _lines(rows: pd.DataFrame, statistic: str, verdict: pd.DataFrame | None) -> pd.DataFrame:
    """Select what is plotted, at most ten layers, with the labels of panels and layers.

    Columns beside the rows' own: panel, layer, and failed, which says that the line fails.
    """
    rows = few_lines(rows)
    is_bias = rows["name"].str.endswith("bias")
    quantities = zip(rows["kind"], is_bias, strict=True)
    labels = [PANELS.get(key) for key in quantities]
    panels = pd.Series(labels, rows.index)
    table = _plottable(rows.assign(panel=panels), statistic)
    table["layer"] = layers(table["name"])
    table["failed"] = has_failed(table, verdict)
    worst = list(table.loc[table["failed"], "layer"].unique())
    shown = chosen_lines(list(table["layer"].unique()), worst)
    table = table[table["layer"].isin(shown)].copy()
    return table


def has_failed(table: pd.DataFrame, verdict: pd.DataFrame | None) -> list[bool]:
    """Say of each row whether its tensor, kind and step fail, or a block's that it is a mean of.

    Args:
        table: rows with columns kind, name and t, and check if the verdict has it.
        verdict: of `mupl.analysis.coordinates.verdict`; None: nothing fails.
    """
    if verdict is None:
        return [False] * len(table)
    keys = [key for key in ("check", "kind", "name", "t") if key in verdict]
    failures = verdict[verdict["verdict"] == FAIL]
    failed: set[tuple[Any, ...]] = set()
    for names in (failures["name"], failures["name"].map(block_pattern)):
        failed.update(failures.assign(name=names)[keys].itertuples(index=False, name=None))
    return [row in failed for row in table[keys].itertuples(index=False, name=None)]


def _plot_layers(
    table: pd.DataFrame, statistic: str, along: str, col: str, **options: Any
) -> "FacetGrid":
    """Plot a line for each layer, with its predicted slope dashed and crosses if it fails."""
    from seaborn import color_palette

    names = list(table["layer"].unique())
    colors = dict(zip(names, color_palette("viridis", len(names)), strict=True))
    grid = _plot_lines(
        table,
        PANELS.values(),
        along,
        statistic,
        col=col,
        hue="layer",
        hue_order=names,
        palette=colors,
        legend=False,  # its own would have no dashes and crosses
        **options,
    )
    for (row, column), axes in grid.axes_dict.items():
        panel = table[(table["panel"] == row) & (table[col] == column)]
        _mark_lines(axes, panel, along, colors)
    handles = [
        Line2D([], [], color="gray", linestyle="--", linewidth=1, label="predicted slope"),
        Line2D([], [], color=FAILED, linestyle="", marker="X", label="fails"),
    ]
    for name in reversed(names):
        handles.insert(0, Line2D([], [], color=colors[name], marker="o", label=name))
    options = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
    grid.figure.legend(handles=handles, title="layer", **options)
    return grid


def _mark_lines(axes: Axes, panel: pd.DataFrame, along: str, colors: Mapping[str, Any]) -> None:
    if "high" in panel and not panel.empty:
        lines = predicted(panel, ["layer", along], along).dropna()
        limits = axes.get_ylim()
        for layer, line in lines.groupby("layer"):
            sizes = line.index.get_level_values(along)
            axes.plot(sizes, line, color=colors[str(layer)], linestyle="--", linewidth=1)
        axes.set_ylim(limits)  # a prediction that is far off is cut off
    failed = panel[panel["failed"]]
    values = failed.groupby(["layer", along])["value"]
    medians = values.median().reset_index()
    axes.plot(medians[along], medians["value"], "X", color=FAILED, markersize=7, zorder=3)


def plot_side_by_side(
    rows: pd.DataFrame,
    panels: Mapping[tuple[str, str], str],
    statistic: str = "l1",
    along: str = "width",
) -> Figure:
    """Plot chosen quantities against width on log2 axes, one parametrization beside another.

    There is a row of panels for each quantity, a column for each parametrization, and a line for
    each step t. Lines and bands are as in `plot_coordinates`.

    Args:
        rows: of recorders, with columns parametrization, width (or depth) and seed.
        panels: (kind, name) -> label, a row of panels each, from top to bottom.
        statistic: the one that is plotted.
        along: "width" or "depth".

    >>> rows = pd.DataFrame({"width": [64, 128], "value": [1.0, 0.5], "parametrization": "mup"})
    >>> rows = rows.assign(seed=0, t=0, kind="output", name="readout", statistic="l1")
    >>> figure = plot_side_by_side(rows, {("output", "readout"): "logits"})
    >>> figure.axes[0].get_ylabel()
    'mean |x|'
    """
    from seaborn import color_palette

    quantities = zip(rows["kind"], rows["name"], strict=True)
    labels = pd.Series([panels.get(key) for key in quantities], rows.index)
    grid = _plot_lines(
        with_written_names(_plottable(rows.assign(panel=labels), statistic)),
        panels.values(),
        along,
        statistic,
        col="parametrization",
        hue="t",
        palette=color_palette("viridis", rows["t"].nunique()),  # without the pale end
        legend="full",
        height=2.2,
        aspect=1.1,
    )
    grid.set_titles(row_template="{row_name}", col_template="{col_name}")
    return grid.figure


def predicted(rows: pd.DataFrame, keys: Sequence[str], along: str) -> pd.Series:
    """Return what the values at each size would be if the slope were the predicted one.

    A prediction starts at the median of the smallest size. Of a range of slopes the upper end
    counts, beyond which something grows too fast; without one it is NaN.

    Args:
        rows: of one check and kind, with columns low and high.
        keys: the columns that tell points apart, `along` among them.
        along: the size.

    >>> rows = pd.DataFrame({"width": [64, 128], "value": [1.0, 2.0], "low": -1.0, "high": -1.0})
    >>> predicted(rows.assign(t=0), ["t", "width"], "width").tolist()
    [1.0, 0.5]
    """
    of_line = [key for key in keys if key != along]
    points = rows.groupby([*keys], sort=False)[["value", "high"]].median()
    table = points.reset_index().sort_values(along)
    first = table.groupby(of_line, sort=False)[["value", along]].transform("first")
    growth = (table[along] / first[along]) ** table["high"]
    line = first["value"] * growth
    return line.set_axis(pd.MultiIndex.from_frame(table[list(keys)]))


def few_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Take means over blocks where there are more layers than a panel can show.

    >>> few_lines(pd.DataFrame({"name": [f"h.{i}.up" for i in range(12)], "value": 1.0}))
         name  value
    0  h.*.up    1.0
    """
    if layers(rows["name"]).nunique() <= MOST_LINES:
        return rows
    return over_blocks(rows)


def layers(names: pd.Series) -> pd.Series:
    """Return the module for the name of a weight or a bias."""
    return names.str.replace(r"\.(weight|bias)$", "", regex=True)


def _words(verdict: pd.DataFrame) -> dict[str, str]:
    """Return "fail" or "not judged" for layers that have either, by name; the worse counts."""
    others = verdict[verdict["verdict"] != "pass"]
    worst = others.groupby(layers(others["name"]))["verdict"].min()  # "fail" < "not judged"
    return {str(layer): word for layer, word in worst.items()}


def _plottable(rows: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """Select the rows that belong to a panel and have a value that logarithmic axes can show."""
    shown = (rows["statistic"] == statistic) & (rows["value"] > 0)
    return rows[shown].dropna(subset="panel")


def _plot_lines(
    table: pd.DataFrame, panels: Iterable[str], along: str, statistic: str, **options: Any
) -> "FacetGrid":
    """Plot medians over seeds and their range, on log2 axes.

    Args:
        table: rows with the label of their panel.
        panels: the labels, from top to bottom; those without rows are left out.
        along: the column of the horizontal axis.
        statistic: the name of the vertical one.
        options: of seaborn's `relplot`.
    """
    from seaborn import relplot

    there = set(table["panel"])
    with styled():
        grid = relplot(
            table,
            x=along,
            y="value",
            row="panel",
            row_order=[panel for panel in panels if panel in there],
            kind="line",
            estimator="median",
            errorbar=("pi", 100),
            marker="o",
            markersize=4,
            facet_kws={"sharey": "row", "margin_titles": True},
            **options,
        )
    for axes in grid.axes.flat:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
    return grid.set_axis_labels(along, STATISTICS.get(statistic, statistic))
