"""The numbers and the figure of f(x) = V^T U x, the smallest network (docs/teaching.md)."""

import pandas as pd
from matplotlib.figure import Figure

from mupl.analysis.slopes import fit_slope
from mupl.figures.coordinates import plot_side_by_side

PANELS = {
    ("output", "1"): "|f|",
    ("change", "0.weight"): "change of U and Ux",  # as x = 1
    ("change", "1.weight"): "change of V",
}


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the exponents of width of each quantity after each update, over the larger widths.

    Args:
        rows: of recorders, with columns parametrization, width and seed.

    Returns:
        A row for each quantity, number of updates and parametrization, with its slope.

    >>> rows = pd.DataFrame({"width": [4, 8, 16], "value": [1.0, 2.0, 4.0], "kind": "output"})
    >>> slopes(rows.assign(name="1", t=0, seed=0, parametrization="sp"))
      quantity  updates parametrization  slope
    0      |f|        0              sp    1.0
    """
    rows = rows[rows["width"] >= rows["width"].median()]
    found = []
    for (kind, name), label in PANELS.items():
        is_here = (rows["kind"] == kind) & (rows["name"] == name)
        panel = rows[is_here]
        for (t, parametrization), step in panel.groupby(["t", "parametrization"]):
            medians = step.groupby("width", as_index=False)["value"].median()
            exponent = fit_slope(medians.assign(seed=0), along="width").slope
            slope = round(exponent, 2) + 0.0  # and not -0.0
            found.append((label, t, parametrization, slope))
    return pd.DataFrame(found, columns=["quantity", "updates", "parametrization", "slope"])


def plot(rows: pd.DataFrame) -> Figure:
    """Plot |f| and the changes of U and V against width, SP beside muP."""
    return plot_side_by_side(rows, PANELS)
