"""The figure of searched settings at sizes that were not searched."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mupl.analysis.carried import OWN, PLAIN
from mupl.analysis.transfer import SIZES

PANELS = {
    "gain": "loss gained over plain",
    "speedup": "speedup, in the course of runs",
    "run_speedup": "speedup, between whole runs",
}
STEP = 0.1  # between series at one size, of the distance of sizes


def plot_carried(table: pd.DataFrame) -> Figure:
    """Plot what each setting gains at each size, with 95 % intervals over seeds.

    The dashed line is the plain setting at the best learning rate of each size.

    Args:
        table: of `mupl.analysis.carried.carried`.

    >>> table = pd.DataFrame({"width": [8, 16], "setting": "best", "rate_from": "same size"})
    >>> for name in PANELS:
    ...     table = table.assign(**{name: 1.1, f"{name}_low": 1.0, f"{name}_high": 1.2})
    >>> [len(axes.containers) for axes in plot_carried(table).axes]
    [1, 1, 1]
    """
    is_reference = (table["setting"] == PLAIN) & (table["rate_from"] == OWN)
    columns = list(table.columns)
    keys = columns[: columns.index("setting")]
    places = table[keys].map(str).agg("\n".join, axis=1)
    shown = table[~is_reference].assign(place=places)
    order = {place: number for number, place in enumerate(places.unique())}
    panels = [name for name in PANELS if table[name].notna().any()]
    width = max(5, 0.8 * len(order))
    height = 2.4 * len(panels) + 1
    figure = Figure(figsize=(width, height), layout="constrained")
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(column, panels, strict=True):
        _plot_panel(axes, shown, name, order)
    column[-1].set_xticks(list(order.values()), list(order))
    column[-1].set_xlabel(", ".join(SIZES.get(key, key) for key in keys))
    handles, names = column[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure


def _plot_panel(axes: Axes, shown: pd.DataFrame, name: str, order: dict[str, int]) -> None:
    """Plot one number of all settings: a place on the x axis for each size."""
    for number, (key, series) in enumerate(shown.groupby(["setting", "rate_from"], sort=False)):
        value = series[name]
        below = value - series[f"{name}_low"]
        above = series[f"{name}_high"] - value
        ends = np.array([below, above])
        x = series["place"].map(order) + STEP * number
        setting, rate_from = key
        label = f"{setting}, learning rate of the {rate_from}"
        axes.errorbar(x, value, ends, fmt="o", markersize=4, capsize=2, label=label)
    axes.axhline(0 if name == "gain" else 1, color="black", linestyle="--", linewidth=1)
    axes.set_ylabel(PANELS[name])
