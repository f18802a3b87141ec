"""The coordinate check figure."""

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

# (kind, whether of biases) -> label of a row of panels, from top to bottom
PANELS = {
    ("output", False): "layer outputs",
    ("param", False): "weights W",
    ("update", False): "weight changes ΔW",
    ("param", True): "biases b",
    ("update", True): "bias changes Δb",
}


def coordinate_check(rows: pd.DataFrame, title: str, statistic: str = "l1", along: str = "width") -> Figure:
    """Size of the coordinates against width on log2 axes: a row of panels a kind, a column a step t, a line a layer.

    along: "width", or "depth". Lines are medians over seeds, bands their range. Values that are 0 are not drawn.
    A check of the standard parametrization says so in its title.
    """
    table = rows[(rows["statistic"] == statistic) & (rows["value"] > 0)].copy()
    is_bias = table["name"].str.endswith("bias")
    table["panel"] = [PANELS.get(key) for key in zip(table["kind"], is_bias, strict=True)]
    table = table.dropna(subset="panel")
    table["layer"] = table["name"].str.replace(r"\.(weight|bias)$", "", regex=True)
    layers = list(dict.fromkeys(table["layer"]))
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            table, x=along, y="value", hue="layer", hue_order=layers,
            palette=sns.color_palette("viridis", len(layers)),
            row="panel", row_order=[p for p in PANELS.values() if (table["panel"] == p).any()], col="t",
            kind="line", estimator="median", errorbar=("pi", 100), marker="o", markersize=4, height=2.4, aspect=1.3,
            facet_kws={"sharey": "row", "margin_titles": True},
        )  # fmt: skip
    grid.set_titles(row_template="{row_name}", col_template="t = {col_name}")
    grid.figure.suptitle(title, y=1.02)
    return _labelled(grid, along, statistic)


def side_by_side(
    rows: pd.DataFrame, panels: Mapping[tuple[str, str], str], statistic: str = "l1", along: str = "width"
) -> Figure:
    """Chosen quantities against width on log2 axes: a column of panels a parametrization, a line a step t.

    panels: (kind, name) -> label, a row of panels each, from top to bottom. Lines and bands as in `coordinate_check`.
    """
    table = rows[(rows["statistic"] == statistic) & (rows["value"] > 0)].copy()
    table["panel"] = [panels.get(key) for key in zip(table["kind"], table["name"], strict=True)]
    table = table.dropna(subset="panel")
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            table, x=along, y="value", hue="t", palette="viridis", legend="full",
            row="panel", row_order=[p for p in panels.values() if (table["panel"] == p).any()], col="parametrization",
            kind="line", estimator="median", errorbar=("pi", 100), marker="o", markersize=4, height=2.2, aspect=1.1,
            facet_kws={"sharey": "row", "margin_titles": True},
        )  # fmt: skip
    grid.set_titles(row_template="{row_name}", col_template="{col_name}")
    return _labelled(grid, along, statistic)


def _labelled(grid: sns.FacetGrid, along: str, statistic: str) -> Figure:
    """The figure of a grid, its axes log2 and named."""
    for axis in grid.axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
    return grid.set_axis_labels(along, {"l1": "mean |x|"}.get(statistic, statistic)).figure
