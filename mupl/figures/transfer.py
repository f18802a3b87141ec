"""The figure of hyperparameter transfer."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from mupl.analysis.transfer import HYPERPARAMETERS, SIZES, best, curve_keys, curves

Colors = Mapping[str, tuple[float, float, float]]


def plot_hyperparameter_transfer(
    results: pd.DataFrame, metric: str = "val_loss", size: str = "width", x: str = "lr"
) -> Figure:
    """Plot final loss against the hyperparameter x: a curve a size, a panel a parametrization.

    Other swept keys make panels too. Bands span the seeds; a star is the best x of its size. An x
    at which a seed diverged is not drawn; losses far above those at the smallest x are cut off.

    Args:
        results: one row a run (see `mupl.analysis.transfer`).
        metric: the column of losses.
        size, x: columns, of `SIZES` and of `HYPERPARAMETERS`.

    Raises:
        ValueError: if no run completed.

    >>> grid = [(width, lr) for width in (64, 128) for lr in (0.5, 1.0, 2.0)]
    >>> results = pd.DataFrame(grid, columns=["width", "lr"])
    >>> results = results.assign(seed=0, parametrization="mup", optimizer="adamw")
    >>> results = results.assign(status="completed", val_loss=2 + results["lr"])
    >>> figure = plot_hyperparameter_transfer(results)
    >>> [axes.get_title() for axes in figure.axes]
    ['mup']
    """
    table = curves(results, metric, x)
    finite = table[table["mean"] < float("inf")]
    if finite.empty:
        raise ValueError("no completed run to draw")
    keys = curve_keys(results, x)
    panel_keys = _panel_keys(results, keys, size)
    panels = _labelled(results, panel_keys, size)["panel"].unique()
    sizes = finite.sort_values(size)[size].astype(str).unique()
    palette = sns.color_palette("viridis", len(sizes))
    colors = dict(zip(sizes, palette, strict=True))

    # three rows a point: seaborn's median of mean, min and max is the mean, their range the band
    points = finite.melt([*keys, x], ["mean", "min", "max"], value_name=metric)
    points = _labelled(points, panel_keys, size)
    grid = _plot_curves(points, x, metric, SIZES[size], colors, list(panels))
    stars = _labelled(best(results, metric, x), panel_keys, size)
    for panel, axes in grid.axes_dict.items():
        _plot_stars(axes, stars[stars["panel"] == panel], x, metric, SIZES[size], colors)
        if is_numeric_dtype(results[x]):
            axes.set_xscale("log", base=2)
        else:
            axes.tick_params(axis="x", rotation=30)
    grid.set(**_loss_axis(finite, stars[metric].max(), keys, x))
    grid.set_titles("{col_name}")
    grid.set_axis_labels(HYPERPARAMETERS[x], metric.replace("_", " "))
    return grid.figure


def _plot_curves(
    points: pd.DataFrame, x: str, y: str, hue: str, colors: Colors, panels: list[str]
) -> sns.FacetGrid:
    with sns.axes_style("whitegrid"):
        return sns.relplot(
            points,
            x=x,
            y=y,
            hue=hue,
            hue_order=list(colors),
            palette=colors,
            col="panel",
            col_order=panels,
            col_wrap=4 if len(panels) > 4 else None,
            kind="line",
            estimator="median",
            errorbar=("pi", 100),
            marker="o",
            markersize=4,
            height=4,
            aspect=1.1,
        )


def _plot_stars(axes: Axes, stars: pd.DataFrame, x: str, y: str, hue: str, colors: Colors) -> None:
    axes.scatter(
        stars[x],
        stars[y],
        c=stars[hue].map(dict(colors)),
        marker="*",
        s=140,
        ec="black",
        zorder=3,
    )


def _panel_keys(results: pd.DataFrame, keys: list[str], size: str) -> list[str]:
    """The swept columns of which each value has panels of its own."""
    swept = []
    for key in keys:
        if key != size and results[key].nunique(dropna=False) > 1:
            swept.append(key)
    return swept or ["parametrization"]


def _labelled(table: pd.DataFrame, panel_keys: list[str], size: str) -> pd.DataFrame:
    """The table with the label of each row's panel, and its size as text."""
    texts = table[panel_keys].map(str)  # a missing value too
    for key in panel_keys:
        if key not in ("parametrization", "optimizer"):
            short = key.split(".")[-1]
            texts[key] = f"{short}=" + texts[key]
    table = table.copy()
    table["panel"] = texts.agg(", ".join, axis=1)
    table[SIZES[size]] = table[size].astype(str)
    return table


def _loss_axis(finite: pd.DataFrame, worst_best: float, keys: list[str], x: str) -> dict[str, Any]:
    """Scale and limits of the axis of losses, cut above the losses at the smallest x.

    Args:
        finite: the curves.
        worst_best: the largest of the losses at their best x, which is shown in any case.
        keys, x: the columns of curves and of the hyperparameter.
    """
    at_start = finite["mean"]
    if is_numeric_dtype(finite[x]):
        by_curve = finite.groupby(keys, dropna=False)
        smallest = by_curve[x].idxmin()
        at_start = finite.loc[smallest, "mean"]
    low = finite["min"].min()
    high = max(at_start.max(), worst_best)
    if high > 4 * low:
        return {"yscale": "log", "ylim": (low / 1.1, high * 1.2)}
    if high == low:  # every curve is best at its smallest x
        return {}
    span = high - low  # a logarithmic axis would have one tick
    return {"ylim": (low - 0.05 * span, high + 0.2 * span)}
