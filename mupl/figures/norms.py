"""The figure of the norms of updates beside the change of activations, layer by layer."""

import pandas as pd
from matplotlib.figure import Figure

from mupl.figures.look import styled
from mupl.figures.style import by_rank, with_written_names

LABELS = {
    "activation_change": "RMS change of activations",
    "frobenius": "Frobenius",
    "spectral": "spectral",
    "rms_to_rms": "RMS→RMS",
}


def plot_update_norms(table: pd.DataFrame, by: str) -> Figure:
    """Plot the change of activations and each norm of the updates as bars on log axes.

    There is a row of panels for each quantity, a column for each value of `by`, and a bar for each
    layer.

    Args:
        table: what `mupl.analysis.norms.update_norms` returns, with a column `shape`, which is a
            label of the layer.
        by: a column, such as "parametrization".

    >>> table = pd.DataFrame({"optimizer": ["adam"], "shape": ["up 8x8"], "activation_change": [1]})
    >>> table = table.assign(frobenius=2.0, spectral=1.0, rms_to_rms=1.0)
    >>> figure = plot_update_norms(table, by="optimizer")
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['RMS change of activations', 'Frobenius', 'spectral', 'RMS→RMS']
    """
    import seaborn as sns  # here, as it takes longer than the page of a sweep, which needs LABELS

    table = with_written_names(by_rank(table))
    bars = table.melt([by, "shape"], list(LABELS), var_name="quantity", value_name="value")
    with styled():
        grid = sns.catplot(
            bars,
            x="shape",
            y="value",
            row="quantity",
            row_order=list(LABELS),
            col=by,
            kind="bar",
            color=sns.color_palette("viridis", 3)[1],
            height=2.2,
            aspect=1.8,
            sharey="row",
            margin_titles=True,
        )
    grid.set(yscale="log")
    grid.set_titles(row_template="", col_template="{col_name}")
    grid.set_axis_labels("layer, in x out", "")
    for axes, label in zip(grid.axes, LABELS.values(), strict=True):
        axes[0].set_ylabel(label)
    for axes in grid.axes[-1]:
        for text in axes.get_xticklabels():  # each ends at its bar
            text.set(rotation=60, ha="right", rotation_mode="anchor")
    return grid.figure
