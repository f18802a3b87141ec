"""The learning-rate transfer figure."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mupl.analysis.transfer import best, curves, series_keys


def lr_transfer(results: pd.DataFrame, metric: str = "val_loss") -> Figure:
    """Final loss against learning rate: one curve a width, one panel a parametrization (and other swept keys).

    Bands span the seeds; a star is the best lr of its width. A learning rate at which a seed diverged is not drawn, and
    losses far above those at the smallest lr are cut off.

    Raises:
        ValueError: if no run completed.
    """
    table = curves(results, metric)
    finite = table[table["mean"] < float("inf")]
    if finite.empty:
        raise ValueError("no completed run to draw")
    keys = series_keys(results)
    panel_keys = [k for k in keys if k != "width" and results[k].nunique() > 1] or ["parametrization"]

    def labelled(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(
            panel=frame[panel_keys].astype(str).agg(", ".join, axis=1), width=frame["width"].astype(str)
        )

    points, stars = labelled(finite), labelled(best(results, metric))
    widths = list(dict.fromkeys(labelled(finite.sort_values("width"))["width"]))
    panels = list(dict.fromkeys(labelled(results)["panel"]))
    colors = plt.get_cmap("viridis")(np.linspace(0, 1, len(widths) + 2)[1:-1])
    palette = dict(zip(widths, map(tuple, colors), strict=True))
    smallest = finite.loc[finite.groupby(keys, dropna=False)["lr"].idxmin(), "mean"]
    low, high = finite["min"].min(), max(smallest.max(), stars[metric].max())

    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    with plt.style.context("seaborn-v0_8-whitegrid"):
        size = (4.4 * columns, 4 * rows)
        figure, grid = plt.subplots(rows, columns, sharex=True, sharey=True, squeeze=False, figsize=size)
    for axis in grid.flat[len(panels) :]:
        axis.remove()
    for i, (axis, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        for width, curve in points[points["panel"] == panel].groupby("width", sort=False):
            axis.plot(curve["lr"], curve["mean"], "o-", markersize=4, color=palette[width], label=width)
            axis.fill_between(curve["lr"], curve["min"], curve["max"], color=palette[width], alpha=0.2, linewidth=0)
        best_ones = stars[stars["panel"] == panel]
        fill = list(best_ones["width"].map(palette))
        axis.scatter(best_ones["lr"], best_ones[metric], c=fill, marker="*", s=140, edgecolor="black", zorder=3)
        axis.set(xscale="log", yscale="log", ylim=(low / 1.1, high * 1.2), title=panel)
        axis.set_ylabel("" if i % columns else metric.replace("_", " "))
        if i + columns >= len(panels):  # nothing below it
            axis.set_xlabel("learning rate")
            axis.tick_params(labelbottom=True)
    lines = [plt.Line2D([], [], color=palette[width], marker="o", markersize=4) for width in widths]
    figure.legend(lines, widths, title="width", loc="center left", bbox_to_anchor=(0.91, 0.5), frameon=False)
    return figure
