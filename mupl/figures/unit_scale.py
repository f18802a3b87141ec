"""The figure of a unit-scaling check."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from mupl.analysis.unit_scale import BAND
from mupl.names import block_pattern


def unit_scale(table: pd.DataFrame) -> Figure:
    """RMS over what it must be, of parameters and of what modules return, a dot for each block and run; the band of
    those that pass is shaded. table: as `mupl.analysis.unit_scale.verdict` returns it."""
    dots = table.assign(
        ratio=table["rms"] / table["expected"], name=table["name"].map(block_pattern)
    )
    dots["of"] = dots["kind"].str.startswith("output").map({True: "modules", False: "parameters"})
    dots["of what"] = dots["kind"].map({"param": "values", "output": "values"}).fillna("gradients")
    with sns.axes_style("whitegrid"):
        grid = sns.relplot(
            dots, x="ratio", y="name", hue="of what", style="passed", markers={True: "o", False: "X"}, col="of",
            kind="scatter", height=4, facet_kws={"sharey": False},
        )  # fmt: skip
    for axis in grid.axes.flat:
        axis.axvspan(*BAND, color="tab:green", alpha=0.1)
        axis.set_xscale("log", base=2)
    grid.set_axis_labels("RMS over what unit scaling wants", "").set_titles(
        "{col_name}"
    ).tight_layout()
    return grid.figure
