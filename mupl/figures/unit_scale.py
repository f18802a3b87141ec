"""The figure of a unit-scaling check."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mupl.analysis.unit_scale import BAND
from mupl.figures.look import styled
from mupl.names import block_pattern


def plot_unit_scale(table: pd.DataFrame) -> Figure:
    """Plot RMS over what it must be, of parameters and of what modules return.

    There is a dot for each block and run. The band of dots that pass is shaded.

    Args:
        table: what `mupl.analysis.unit_scale.unit_scale_verdict` returns.

    >>> table = pd.DataFrame({"kind": ["param", "output"], "name": ["up.weight", "up"]})
    >>> figure = plot_unit_scale(table.assign(rms=[1.1, 3.0], expected=1.0, passed=[True, False]))
    >>> [axes.get_title() for axes in figure.axes]
    ['parameters', 'modules']
    """
    of_modules = table["kind"].str.startswith("output")
    of_values = table["kind"].isin(["param", "output"])
    dots = table.assign(
        ratio=table["rms"] / table["expected"],
        name=table["name"].map(block_pattern),
        owner=of_modules.map({True: "modules", False: "parameters"}),
        quantity=of_values.map({True: "values", False: "gradients"}),
    )
    with styled():
        grid = sns.relplot(
            dots,
            x="ratio",
            y="name",
            hue="quantity",
            style=None if table["passed"].all() else "passed",  # a legend of one entry says nothing
            markers={True: "o", False: "X"},
            col="owner",
            kind="scatter",
            height=4,
            facet_kws={"sharey": False},
        )
    for axes in grid.axes.flat:
        axes.axvspan(*BAND, color="tab:green", alpha=0.1)
        axes.set_xscale("log", base=2)
    grid.set_axis_labels("RMS over what unit scaling wants", "")
    grid.set_titles("{col_name}")
    grid.tight_layout()
    return grid.figure
