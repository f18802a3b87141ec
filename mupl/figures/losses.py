"""The losses of one run against its updates."""

import pandas as pd
from matplotlib.figure import Figure

LOSSES = {"train_loss": "training", "val_loss": "validation"}  # column -> name


def plot_losses(metrics: pd.DataFrame, title: str) -> Figure:
    """Plot the losses of a run.

    Args:
        metrics: columns step and one or more of `LOSSES`, empty where nothing was logged.

    >>> metrics = pd.DataFrame({"step": [9, 19], "train_loss": [2.0, 1.5]})
    >>> len(plot_losses(metrics, "digits").axes[0].lines)
    1
    """
    figure = Figure(figsize=(5, 3.5))
    axes = figure.subplots()
    for column, name in LOSSES.items():
        if column in metrics:
            logged = metrics.dropna(subset=[column])
            axes.plot(logged["step"] + 1, logged[column], marker=".", label=name)
    axes.set(xlabel="updates", ylabel="loss", title=title)
    axes.legend()
    return figure
