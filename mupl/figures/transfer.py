"""The figure of hyperparameter transfer, on one page or on several."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from pandas.api.types import is_numeric_dtype

from mupl.analysis.transfer import (
    SIZES,
    best,
    curve_keys,
    curves,
    differing_keys,
    hyperparameter_name,
    labels,
)
from mupl.figures.look import styled
from mupl.figures.style import by_rank, is_by_octaves, with_unit, with_written_names

PANELS_PER_ROW = 4
PANELS_PER_PAGE = 6 * PANELS_PER_ROW
PANEL_SIZE = (4, 3.1)  # inches, without the labels at the left and the bottom
TITLE_WIDTH = 44  # characters; longer titles would reach into the next panel
MOST_TICKS = 6  # of values that are no powers of two
LEGEND_ENTRIES = 20  # more sizes are a range of colours, of which some are named
STAR: dict[str, Any] = {"marker": "*", "markersize": 11}
POINTS: dict[str, Any] = {"marker": "o", "markersize": 4}
Colors = Mapping[str, tuple[float, float, float]]


def plot_hyperparameter_transfer(
    results: pd.DataFrame,
    metric: str = "val_loss",
    size: str = "width",
    x: str = "lr",
    unit: str = "",
) -> Figure:
    """Plot final loss against the hyperparameter x: a curve a size, a panel a parametrization.

    Other swept keys make panels too. Bands span the seeds; a star is the best x of its size. An x
    at which a seed diverged is left out; losses far above the losses at the smallest x are cut
    off.

    Args:
        results: one row a run (see `mupl.analysis.transfer`).
        metric: the column of losses.
        size, x: columns of the size and the hyperparameter.
        unit: of the losses, such as "nats".

    Raises:
        ValueError: if no run completed.

    >>> grid = [(width, lr) for width in (64, 128) for lr in (0.5, 1.0, 2.0)]
    >>> results = pd.DataFrame(grid, columns=["width", "lr"])
    >>> results = results.assign(seed=0, parametrization="mup", optimizer="adamw")
    >>> results = results.assign(status="completed", val_loss=2 + results["lr"])
    >>> figure = plot_hyperparameter_transfer(results)
    >>> [axes.get_title() for axes in figure.axes]
    ['muP']
    """
    (figure,) = plot_transfer_pages(results, metric, size, x, unit, panels_per_page=len(results))
    return figure


def plot_transfer_pages(
    results: pd.DataFrame,
    metric: str = "val_loss",
    size: str = "width",
    x: str = "lr",
    unit: str = "",
    panels_per_page: int = PANELS_PER_PAGE,
) -> Iterator[Figure]:
    """Yield the pages of `plot_hyperparameter_transfer`, whose axes have the same limits.

    Raises:
        ValueError: if no run completed.
    """
    results = with_written_names(by_rank(results))
    table = curves(results, metric, x)
    finite = table[table["mean"] < float("inf")]
    if finite.empty:
        raise ValueError("no completed run to plot")
    keys = curve_keys(results, x, metric)
    panel_keys = differing_keys(results, [key for key in keys if key != size])
    lines = _labelled(finite, panel_keys, size)
    stars = _labelled(best(results, metric, x), panel_keys, size)
    colors = _colors(finite[size])
    limits = loss_axis(finite, stars[metric].max(), keys, x)
    lines_of = dict(list(lines.groupby("panel")))
    stars_of = dict(list(stars.groupby("panel")))

    panels = labels(results[panel_keys].drop_duplicates()).unique().tolist()
    for first in range(0, len(panels), panels_per_page):
        page = panels[first : first + panels_per_page]
        with styled():
            figure = _empty_panels(page, hyperparameter_name(x), with_unit(metric, unit))
            _add_legend(figure, SIZES.get(size, size), colors, f"best {hyperparameter_name(x)}")
        _scale_axes(figure.axes, finite[x], limits)
        for panel, axes in zip(page, figure.axes, strict=True):
            if panel in lines_of:
                _plot_curves(axes, lines_of[panel], x, colors)
                _plot_stars(axes, stars_of[panel], x, metric, colors)
        yield figure


def _empty_panels(panels: Sequence[str], x_label: str, y_label: str) -> Figure:
    """Lay out panels that share their axes, with titles, and labels at the left and the bottom."""
    columns = _panels_in_a_row(len(panels))
    rows = -(-len(panels) // columns)
    width, height = PANEL_SIZE
    figure, grid = plt.subplots(
        rows,
        columns,
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(width * columns, height * rows),
        gridspec_kw={"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0.08, "hspace": 0.16},
    )
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for position, panel in enumerate(panels):
        axes = grid.flat[position]
        # y is matplotlib's own choice here; looking for it takes a third of the time of a page
        axes.set_title(textwrap.fill(panel, TITLE_WIDTH), size="medium", y=1)
        if position % columns == 0:
            axes.set_ylabel(y_label)
        if position + columns >= len(panels):  # nothing below
            axes.set_xlabel(x_label)
            axes.tick_params(axis="x", labelbottom=True)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _panels_in_a_row(count: int) -> int:
    """Return how many panels stand beside one another, if possible without a gap at the end."""
    if count <= PANELS_PER_ROW:
        return count
    without_gap = [columns for columns in (4, 5, 3) if count % columns == 0]
    return [*without_gap, PANELS_PER_ROW][0]


def _scale_axes(panels: Sequence[Axes], x: pd.Series, limits: Mapping[str, Any]) -> None:
    first = panels[0]  # all share its scales, units and limits
    first.set(**limits)
    if limits.get("yscale") == "log":
        first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        first.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        first.yaxis.set_minor_locator(NullLocator())
    if is_numeric_dtype(x):
        first.set_xscale("log", base=2)
        _label_values(first, x)
        return
    first.xaxis.update_units(sorted(x.unique()))  # choices in the order of curves
    for axes in panels:
        axes.tick_params(axis="x", rotation=30)


def _label_values(axes: Axes, x: pd.Series) -> None:
    """Label the values that were tried, or every so many; powers of two are written as such."""
    values = np.sort(x.unique().astype(float))
    first, last = np.log2(values[[0, -1]]).round(3)
    powers = np.floor(last) - np.ceil(first) + 1  # of two, within the values
    if is_by_octaves(values) and powers >= min(2, len(values)):
        return
    step = -(-len(values) // MOST_TICKS)
    axes.xaxis.set_major_locator(FixedLocator(list(values[::step])))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def _plot_curves(axes: Axes, lines: pd.DataFrame, x: str, colors: Colors) -> None:
    """Plot the mean over seeds, and their range as a band, of each size of one panel."""
    for size, line in lines.groupby("size_label", sort=False):
        color = colors[str(size)]
        axes.plot(line[x], line["mean"], color=color, mew=0.75, mec="white", **POINTS)
        if line["seeds"].max() > 1:
            axes.fill_between(line[x], line["min"], line["max"], color=color, alpha=0.2)


def _plot_stars(axes: Axes, stars: pd.DataFrame, x: str, y: str, colors: Colors) -> None:
    axes.scatter(
        stars[x],
        stars[y],
        c=stars["size_label"].map(dict(colors)),
        marker="*",
        s=140,
        ec="black",
        zorder=3,
    )


def _colors(sizes: pd.Series) -> Colors:
    """Give each size, from the smallest to the largest, its color."""
    labels = sizes.sort_values().astype(str).unique()
    # without the ends of the map, which are too dark and too light
    palette = colormaps["viridis"](np.linspace(0, 1, len(labels) + 2)[1:-1])
    return dict(zip(labels, palette, strict=True))


def _add_legend(figure: Figure, title: str, colors: Colors, star: str) -> None:
    """Name the sizes at the right of the panels, or every so many of them, and the star."""
    step = -(-len(colors) // LEGEND_ENTRIES)
    named = list(colors)[::step]
    handles = []
    for label in named:
        handles.append(Line2D([], [], color=colors[label], label=label, **POINTS))
    handles.append(Line2D([], [], linestyle="", label=star, color="white", mec="black", **STAR))
    if step > 1:
        title = f"{title} ({len(named)} of {len(colors)})"
    figure.legend(
        handles=handles,
        title=title,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
    )


def _labelled(table: pd.DataFrame, panel_keys: list[str], size: str) -> pd.DataFrame:
    """Return the table with the label of each row's panel, and its size as text."""
    panels = labels(table[panel_keys])
    return table.assign(panel=panels, size_label=table[size].astype(str))


def loss_axis(finite: pd.DataFrame, worst_best: float, keys: list[str], x: str) -> dict[str, Any]:
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
    if 0 < 4 * low < high:  # a logarithmic axis has no place for losses of 0 or below
        return {"yscale": "log", "ylim": (low / 1.1, high * 1.2)}
    if high == low:  # every curve is best at its smallest x
        return {}
    span = high - low  # a logarithmic axis would have one tick
    return {"ylim": (low - 0.05 * span, high + 0.2 * span)}
