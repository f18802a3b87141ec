"""The figure of hyperparameter transfer."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from mupl.analysis.transfer import HYPERPARAMETERS, SIZES, best, curves, series_keys


def hyperparameter_transfer(
    results: pd.DataFrame, metric: str = "val_loss", size: str = "width", x: str = "lr"
) -> Figure:
    """Final loss against the hyperparameter x: one curve a size, one panel a parametrization (and other swept keys).

    Bands span the seeds; a star is the best x of its size. An x at which a seed diverged is not drawn, and losses far
    above those at the smallest x are cut off.

    Raises:
        ValueError: if no run completed.
    """
    table = curves(results, metric, x)
    finite = table[table["mean"] < float("inf")]
    if finite.empty:
        raise ValueError("no completed run to draw")
    keys, numbers = series_keys(results, x), is_numeric_dtype(results[x])
    panel_keys = [k for k in keys if k != size and results[k].nunique(dropna=False) > 1] or [
        "parametrization"
    ]
    hue = SIZES[size]

    def labelled(frame: pd.DataFrame) -> pd.DataFrame:
        """With the columns panel and hue."""
        texts = frame[panel_keys].map(str)  # a missing value too
        for key in set(panel_keys) - {"parametrization", "optimizer"}:
            texts[key] = f"{key.split('.')[-1]}=" + texts[key]
        return frame.assign(panel=texts.agg(", ".join, axis=1), **{hue: frame[size].astype(str)})

    # each point's seeds as min, mean, max: seaborn's line through the means, its band over the range
    points = finite.melt([*keys, x], ["mean", "min", "max"], value_name=metric)
    stars = labelled(best(results, metric, x))
    sizes = list(dict.fromkeys(labelled(finite.sort_values(size))[hue]))
    panels = list(dict.fromkeys(labelled(results)["panel"]))
    palette = dict(zip(sizes, sns.color_palette("viridis", len(sizes)), strict=True))
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            labelled(points), x=x, y=metric, hue=hue, hue_order=sizes, palette=palette, col="panel",
            col_order=panels, col_wrap=4 if len(panels) > 4 else None, kind="line", estimator="median",
            errorbar=("pi", 100), marker="o", markersize=4, height=4, aspect=1.1,
        )  # fmt: skip
    for name, axis in grid.axes_dict.items():
        marks = stars[stars["panel"] == name]
        axis.scatter(
            marks[x],
            marks[metric],
            c=marks[hue].map(palette),
            marker="*",
            s=140,
            ec="black",
            zorder=3,
        )
        if numbers:
            axis.set_xscale("log", base=2)
        else:
            axis.tick_params(axis="x", rotation=30)
    first = (
        finite.loc[finite.groupby(keys, dropna=False)[x].idxmin(), "mean"]
        if numbers
        else finite["mean"]
    )
    low, high = finite["min"].min(), max(first.max(), stars[metric].max())
    if high > 4 * low:
        grid.set(yscale="log", ylim=(low / 1.1, high * 1.2))
    else:  # where a logarithmic axis would have one tick
        grid.set(ylim=(low - 0.05 * (high - low), high + 0.2 * (high - low)))
    grid.set_titles("{col_name}").set_axis_labels(HYPERPARAMETERS[x], metric.replace("_", " "))
    return grid.figure
