"""Between which values a number lies if optima lie at the edge of the grid.

The best value tried may be the first or the last one. Where losses have one minimum, the optimum is
then there or beyond, and its loss is the one measured or lower. So what rises (or falls) as such an
optimum moves outward has a bound on one side, and is not known on the other.
"""

from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

INF = float("inf")


def bounds(
    optima: pd.DataFrame, curves: pd.DataFrame, keys: list[str], size: str, x: str
) -> pd.DataFrame:
    """Return the least and the most that numbers of each series of sizes may be.

    Columns: `keys`, and NAME_least and NAME_most for

    - loss, the median over sizes of the loss at the optimum, which may be lower;
    - worst_regret, which may be higher as these losses may be lower, and is not known at all if the
      optimum of the smallest size is at an edge, since it is the regret of that one;
    - octave, the median over sizes of log2 of the optimal x;
    - drift, its slope: with d = log2 size - mean, the sum over sizes of d log2 x over the sum of
      d^2. So an optimum of a large size at the lower edge, or of a small size at the upper one, may
      only lower it.

    Args:
        optima, curves: as `mupl.analysis.transfer` returns them.
        keys: the columns that tell series apart.
        size, x: the columns of the size and the hyperparameter. If x is no number but a choice,
            there is no edge, octave or drift.

    >>> curves = pd.DataFrame({"width": [8, 8, 16, 16], "lr": [1.0, 4.0] * 2, "table": "a"})
    >>> optima = pd.DataFrame({"width": [8, 16], "lr": [2.0, 1.0], "table": "a"})
    >>> optima = optima.assign(loss=[2.0, 1.0], at_edge=[False, True], regret=[0.0, 0.5])
    >>> found = bounds(optima, curves, ["table"], "width", "lr")
    >>> found[["drift_least", "drift_most", "worst_regret_least", "worst_regret_most"]]
       drift_least  drift_most  worst_regret_least  worst_regret_most
    0         -inf        -1.0                 0.5                inf
    """
    tried = curves.groupby([*keys, size], dropna=False)[x].agg(["min", "max"]).reset_index()
    rows = []
    for key, series in optima.merge(tried).groupby(keys, sort=False, dropna=False):
        if len(series) < 2:  # no series of sizes
            continue
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        series = series.sort_values(size)
        at_edge = series["at_edge"].to_numpy(bool)
        row["loss_least"] = series["loss"].where(~at_edge, -INF).median()
        row["loss_most"] = series["loss"].median()
        worst = series["regret"].max()
        row["worst_regret_least"] = 0.0 if at_edge[0] else worst
        row["worst_regret_most"] = INF if at_edge.any() else worst
        if is_numeric_dtype(series[x]):
            row |= _bounds_of_octaves(series, at_edge, size, x)
        rows.append(row)
    return pd.DataFrame(rows)


def _bounds_of_octaves(
    series: pd.DataFrame, at_edge: np.ndarray, size: str, x: str
) -> dict[str, float]:
    """Compute the bounds that follow from the optimal x of one series."""
    octaves = np.log2(series[x].to_numpy(float))
    first = np.log2(series["min"].to_numpy(float))
    last = np.log2(series["max"].to_numpy(float))
    middle = (first + last) / 2  # where all that was tried is one value, it is both edges
    least = np.where(at_edge & (octaves <= middle), -INF, octaves)
    most = np.where(at_edge & (octaves >= middle), INF, octaves)
    distance = np.log2(series[size].to_numpy(float))
    distance -= distance.mean()
    weight = distance / (distance**2).sum()
    counts = weight != 0
    weight, low, high = weight[counts], least[counts], most[counts]
    return {
        "octave_least": float(np.median(least)),
        "octave_most": float(np.median(most)),
        "drift_least": float((weight * np.where(weight > 0, low, high)).sum()),
        "drift_most": float((weight * np.where(weight > 0, high, low)).sum()),
    }
