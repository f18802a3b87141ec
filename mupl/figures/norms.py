"""Norms of updates beside the change of activations, layer by layer."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

LABELS = {
    "activation_change": "RMS change of activations",
    "frobenius": "Frobenius",
    "spectral": "spectral",
    "rms_to_rms": "RMS→RMS",
}


def update_norms(table: pd.DataFrame, by: str) -> Figure:
    """Bars on log axes: a row of panels for the change of activations and each norm, a column a value of `by`.

    Args:
        table: as `mupl.analysis.norms.update_norms` returns it, with a column `shape`, a label of the layer.
    """
    bars = table.melt([by, "shape"], list(LABELS), var_name="quantity", value_name="value")
    with sns.axes_style("whitegrid"):
        grid = sns.catplot(
            bars, x="shape", y="value", row="quantity", row_order=list(LABELS), col=by, kind="bar", height=2.2,
            aspect=1.8, sharey="row", margin_titles=True, color=sns.color_palette("viridis", 3)[1],
        )  # fmt: skip
    grid.set(yscale="log")
    grid.set_titles(row_template="", col_template="{col_name}").set_axis_labels(
        "layer, in x out", ""
    )
    for axes, label in zip(grid.axes, LABELS.values(), strict=True):
        axes[0].set_ylabel(label)
    grid.tick_params(axis="x", rotation=60)
    return grid.figure
