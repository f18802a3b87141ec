"""The figures of coordinate checks."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

# (kind, whether of biases) -> label of a row of panels, from top to bottom
PANELS = {
    ("output", False): "layer outputs",
    ("logits", False): "logits",
    ("attention_logits", False): "attention logits",
    ("effective", False): "own part (W_t - W_0) x_t",
    ("propagating", False): "part of the input W_0 (x_t - x_0)",
    ("param", False): "weights W",
    ("update", False): "weight changes ΔW",
    ("param", True): "biases b",
    ("update", True): "bias changes Δb",
}
STATISTICS = {"l1": "mean |x|"}  # labels of statistics that are not their names


def plot_coordinates(
    rows: pd.DataFrame,
    title: str,
    statistic: str = "l1",
    along: str = "width",
    verdict: pd.DataFrame | None = None,
) -> Figure:
    """Plot the size of the coordinates against width on log2 axes.

    There is a row of panels for each kind, a column for each step t, and a line for each layer.
    Lines are medians over seeds, bands their range. Values that are 0 are not shown.

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
    is_bias = rows["name"].str.endswith("bias")
    quantities = zip(rows["kind"], is_bias, strict=True)
    labels = pd.Series([PANELS.get(key) for key in quantities], rows.index)
    table = _plottable(rows.assign(panel=labels), statistic)
    table["layer"] = _layers(table["name"])
    if verdict is not None:
        words = _words(verdict)
        table["layer"] = [f"{x}: {words[x]}" if x in words else x for x in table["layer"]]
    layers = list(table["layer"].unique())
    grid = _plot_lines(
        table,
        PANELS.values(),
        along,
        statistic,
        col="t",
        hue="layer",
        hue_order=layers,
        palette=sns.color_palette("viridis", len(layers)),
        height=2.4,
        aspect=1.3,
    )
    grid.set_titles(row_template="{row_name}", col_template="t = {col_name}")
    grid.figure.suptitle(title, y=1.02)
    return grid.figure


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
    quantities = zip(rows["kind"], rows["name"], strict=True)
    labels = pd.Series([panels.get(key) for key in quantities], rows.index)
    grid = _plot_lines(
        _plottable(rows.assign(panel=labels), statistic),
        panels.values(),
        along,
        statistic,
        col="parametrization",
        hue="t",
        palette="viridis",
        legend="full",
        height=2.2,
        aspect=1.1,
    )
    grid.set_titles(row_template="{row_name}", col_template="{col_name}")
    return grid.figure


def _layers(names: pd.Series) -> pd.Series:
    """Return the module for the name of a weight or a bias."""
    return names.str.replace(r"\.(weight|bias)$", "", regex=True)


def _words(verdict: pd.DataFrame) -> dict[str, str]:
    """Return "fail" or "not judged" for layers that have either, by name; the worse counts."""
    others = verdict[verdict["verdict"] != "pass"]
    worst = others.groupby(_layers(others["name"]))["verdict"].min()  # "fail" < "not judged"
    return {str(layer): word for layer, word in worst.items()}


def _plottable(rows: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """Select the rows that belong to a panel and have a value that logarithmic axes can show."""
    shown = (rows["statistic"] == statistic) & (rows["value"] > 0)
    return rows[shown].dropna(subset="panel")


def _plot_lines(
    table: pd.DataFrame, panels: Iterable[str], along: str, statistic: str, **options: Any
) -> sns.FacetGrid:
    """Plot medians over seeds and their range, on log2 axes.

    Args:
        table: rows with the label of their panel.
        panels: the labels, from top to bottom; those without rows are left out.
        along: the column of the horizontal axis.
        statistic: the name of the vertical one.
        options: of seaborn's `relplot`.
    """
    there = set(table["panel"])
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
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
