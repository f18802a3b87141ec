"""The figure of a search of many hyperparameters."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mupl.analysis.search import numbers, ranking

PER_ROW = 6


def plot_search(results: pd.DataFrame, metric: str = "val_loss") -> Figure:
    """Plot the loss of each setting that was trained to the end against each searched number.

    A star marks the best setting. A panel spans what was tried.

    >>> results = pd.DataFrame({"lr": [1.0, 2.0, 4.0], "seed": 0, "status": "completed"})
    >>> len(plot_search(results.assign(val_loss=[3.0, 2.0, 2.5])).axes)
    1
    """
    keys = numbers(results)
    ranked = ranking(results, metric)
    rows = int(np.ceil(len(keys) / PER_ROW))
    columns = min(PER_ROW, len(keys))
    figure = Figure(figsize=(2.6 * columns, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    best = ranked.iloc[0]
    for axes, key in zip(panels, keys, strict=False):
        axes.plot(ranked[key], ranked[metric], ".", alpha=0.5)
        axes.plot(best[key], best[metric], "*", markersize=12)
        axes.set_xscale("log")
        axes.set_xlabel(key.removeprefix("tune."))
        axes.set_xlim(results[key].min(), results[key].max())
    for axes in list(panels):
        axes.set_visible(False)
    figure.supylabel(metric.replace("_", " "))
    return figure
