"""The learning-rate transfer figure."""

import pandas as pd
import seaborn as sns
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

    # each point's seeds as min, mean, max: seaborn's line through the means, its band over the range
    points = finite.melt([*keys, "lr"], ["mean", "min", "max"], value_name=metric)
    stars = labelled(best(results, metric))
    widths = list(dict.fromkeys(labelled(finite.sort_values("width"))["width"]))
    panels = list(dict.fromkeys(labelled(results)["panel"]))
    palette = dict(zip(widths, sns.color_palette("viridis", len(widths)), strict=True))
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            labelled(points), x="lr", y=metric, hue="width", hue_order=widths, palette=palette, col="panel",
            col_order=panels, col_wrap=4 if len(panels) > 4 else None, kind="line", estimator="median",
            errorbar=("pi", 100), marker="o", markersize=4, height=4, aspect=1.1,
        )  # fmt: skip
    for name, axis in grid.axes_dict.items():
        marks = stars[stars["panel"] == name]
        axis.scatter(marks["lr"], marks[metric], c=marks["width"].map(palette), marker="*", s=140, ec="black", zorder=3)
    smallest = finite.loc[finite.groupby(keys, dropna=False)["lr"].idxmin(), "mean"]
    low, high = finite["min"].min(), max(smallest.max(), stars[metric].max())
    grid.set(xscale="log", yscale="log", ylim=(low / 1.1, high * 1.2)).set_titles("{col_name}")
    grid.set_axis_labels("learning rate", metric.replace("_", " "))
    return grid.figure
