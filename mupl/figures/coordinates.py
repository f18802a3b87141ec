"""The coordinate check figure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def coordinate_check(
    rows: pd.DataFrame, title: str, statistic: str = "l1", along: str = "width"
) -> Figure:
    """Size of the coordinates against width on log2 axes: a row of panels a kind, a column a step t, a line a layer.

    along: "width", or "depth". Lines are medians over seeds, bands their range. Values that are 0 are not drawn.
    A check of the standard parametrization says so in its title.
    """
    is_bias = rows["name"].str.endswith("bias")
    table = _drawn(
        rows, [PANELS.get(key) for key in zip(rows["kind"], is_bias, strict=True)], statistic
    )
    table["layer"] = table["name"].str.replace(r"\.(weight|bias)$", "", regex=True)
    layers = list(dict.fromkeys(table["layer"]))
    colors = {
        "hue": "layer",
        "hue_order": layers,
        "palette": sns.color_palette("viridis", len(layers)),
    }
    grid = _lines(table, PANELS.values(), "t", along, statistic, height=2.4, aspect=1.3, **colors)
    grid.set_titles(row_template="{row_name}", col_template="t = {col_name}")
    grid.figure.suptitle(title, y=1.02)
    return grid.figure


def side_by_side(
    rows: pd.DataFrame,
    panels: Mapping[tuple[str, str], str],
    statistic: str = "l1",
    along: str = "width",
) -> Figure:
    """Chosen quantities against width on log2 axes: a column of panels a parametrization, a line a step t.

    panels: (kind, name) -> label, a row of panels each, from top to bottom. Lines and bands as in `coordinate_check`.
    """
    table = _drawn(
        rows, [panels.get(key) for key in zip(rows["kind"], rows["name"], strict=True)], statistic
    )
    colors = {"hue": "t", "palette": "viridis", "legend": "full"}
    grid = _lines(
        table,
        panels.values(),
        "parametrization",
        along,
        statistic,
        height=2.2,
        aspect=1.1,
        **colors,
    )
    return grid.set_titles(row_template="{row_name}", col_template="{col_name}").figure


def _drawn(rows: pd.DataFrame, panels: Sequence[str | None], statistic: str) -> pd.DataFrame:
    """The rows that logarithmic axes can show, with the label of each one's panel; those of none are left out."""
    table = rows.copy()
    table["panel"] = panels
    return table[(table["statistic"] == statistic) & (table["value"] > 0)].dropna(subset="panel")


def _lines(
    table: pd.DataFrame,
    panels: Iterable[str],
    columns: str,
    along: str,
    statistic: str,
    **options: Any,
) -> sns.FacetGrid:
    """Medians over seeds and their range, on log2 axes: a row of those `panels` that there are, a column of panels for
    each value of `columns`."""
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            table, x=along, y="value", row="panel", row_order=[p for p in panels if (table["panel"] == p).any()],
            col=columns, kind="line", estimator="median", errorbar=("pi", 100), marker="o", markersize=4,
            facet_kws={"sharey": "row", "margin_titles": True}, **options,
        )  # fmt: skip
    for axis in grid.axes.flat:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
    return grid.set_axis_labels(along, {"l1": "mean |x|"}.get(statistic, statistic))
