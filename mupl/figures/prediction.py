"""The figure of a ladder: its curves, where its optima lead, and where its losses lead."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mupl.analysis.bootstrap import Interval
from mupl.analysis.prediction import Prediction, Recommended, hyperparameters, profile
from mupl.analysis.transfer import SIZES, curves, hyperparameter_name
from mupl.figures.style import with_unit

TOP = 0.3  # of the best losses' range that a curve may rise above the worst of them, and be seen


def plot_prediction(results: pd.DataFrame, metric: str, found: Prediction) -> Figure:
    """Plot losses, optima and best losses of a ladder, each to the target.

    Left: the least loss at each value of the first hyperparameter, a curve a size. Middle: the best
    value against size. Right: the best loss against FLOPs. Bars are 95 % intervals.

    >>> from mupl.analysis.prediction import predict
    >>> grid = [(w, lr) for w in (64, 128) for lr in (0.1, 0.2, 0.4)]
    >>> runs = pd.DataFrame(grid, columns=["width", "lr"]).assign(seed=0, status="completed")
    >>> runs = runs.assign(val_loss=2 + np.log2(runs["lr"] / 0.2) ** 2)
    >>> found = predict(runs, "val_loss", "width", {64: 1e9, 128: 4e9}, 256, 1.6e10)
    >>> len(plot_prediction(runs, "val_loss", found).axes)
    3
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    of_values, of_optima, of_losses = figure.subplots(1, 3)
    first = found.recommended[0]
    _plot_curves(of_values, results, metric, found)
    _plot_optima(of_optima, found, first)
    _plot_losses(of_losses, metric, found)
    return figure


def _plot_curves(axes: Axes, results: pd.DataFrame, metric: str, found: Prediction) -> None:
    key, *others = hyperparameters(results, found.size)
    settings = curves(results, metric, key, [found.size, *others])
    table = profile(settings, key, found.size)
    table = table[np.isfinite(table["mean"])]
    for size, curve in table.groupby(found.size):
        label = f"{found.size} {size:g}"
        axes.plot(curve[key], curve["mean"], ".-", label=label)
    value = found.recommended[0].value
    if isinstance(value, Interval):
        axes.axvline(value.value, color="black", linestyle=":", label="recommended")
        axes.set_xscale("log", base=2)
    axes.set_xlabel(hyperparameter_name(key))
    axes.set_ylabel(with_unit(metric))
    low = found.rungs["loss"].min()
    high = found.rungs["loss"].max()
    span = max(high - low, TOP * abs(high))
    axes.set_ylim(low - TOP * span, high + span)
    axes.legend()


def _plot_optima(axes: Axes, found: Prediction, first: Recommended) -> None:
    for size, best in first.optima.items():
        value = best.value if isinstance(best, Interval) else best
        axes.plot([size], [value], "o", color="C0")
        if isinstance(best, Interval):
            axes.vlines([size], [best.low], [best.high])
    axes.set_xscale("log", base=2)
    if isinstance(first.value, Interval):
        axes.set_yscale("log", base=2)
        _plot_target(axes, found.target, first.value)
    axes.set_xlabel(SIZES.get(found.size, found.size))
    axes.set_ylabel(hyperparameter_name(first.key))
    axes.legend()


def _plot_losses(axes: Axes, metric: str, found: Prediction) -> None:
    rungs = found.rungs
    axes.plot(rungs["flops"], rungs["loss"], "o", label="best")
    axes.vlines(rungs["flops"], rungs["low"], rungs["high"])
    axes.set_xscale("log")
    if found.loss is not None and found.law is not None:
        along = np.geomspace(rungs["flops"].min(), found.target_flops, 100)
        losses = [found.law.at(flops) for flops in along]
        axes.plot(along, losses, "-", linewidth=1)
        _plot_target(axes, found.target_flops, found.loss)
    axes.set(xlabel="FLOPs of a run", ylabel=with_unit(metric))
    axes.legend()


def _plot_target(axes: Axes, x: float, interval: Interval) -> None:
    axes.plot([x], [interval.value], "*", markersize=12, label="target")
    axes.vlines([x], [interval.low], [interval.high])
