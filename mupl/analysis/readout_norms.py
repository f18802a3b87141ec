"""Norm transfer: the norm of the readout at the best hyperparameter of each size.

Filatov et al. (2025, arXiv 2510.03871) find that the RMS -> infinity norm of the readout
(`mupl.stats.readout_norm`) is the same at the best learning rate of every size. That is necessary
for a learning rate to be the best one, and not sufficient.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.analysis.slopes import fit_slope

NORM = "readout_norm"
NORM_COLUMNS = ("norm_drift", "norm_low", "norm_high")


def with_norms(
    optima: pd.DataFrame, results: pd.DataFrame, keys: Sequence[str], x: str
) -> pd.DataFrame:
    """Add to optima the norm of the readout there, if the results have any.

    It is the mean over seeds, interpolated between the values of x that were tried, in log2(x).

    Args:
        optima: a row a curve.
        results: a row a run; NaN is a norm that is not known.
        keys: the columns that tell curves apart.
        x: the column of the hyperparameter.

    >>> runs = pd.DataFrame({"width": 64, "lr": [1.0, 4.0], "readout_norm": [3.0, 5.0]})
    >>> with_norms(pd.DataFrame({"width": [64], "lr": [2.0]}), runs, ["width"], "lr")
       width   lr  readout_norm
    0     64  2.0           4.0
    """
    if optima.empty or NORM not in results or results[NORM].isna().all():
        return optima
    keys = [*keys]
    known = results.dropna(subset=NORM)
    of_values = known.groupby([*keys, x], dropna=False)[NORM]
    points = of_values.mean().reset_index()
    rows = []
    for key, curve in points.groupby(keys, dropna=False):
        rows.append((*key, curve))
    curves = pd.DataFrame(rows, columns=[*keys, "curve"])
    merged = optima.merge(curves, how="left", on=keys)
    norms = []
    for value, curve in zip(merged[x], merged["curve"], strict=True):
        norms.append(_at(value, curve, x))
    return optima.assign(**{NORM: norms})


def _at(value: Any, curve: Any, x: str) -> float:
    """Return the norm at a value of x, of the points of one curve; NaN if it has none."""
    if not isinstance(curve, pd.DataFrame):
        return float("nan")
    if not is_numeric_dtype(curve[x]):
        return float(curve.loc[curve[x] == value, NORM].mean())
    return float(np.interp(np.log2(value), np.log2(curve[x]), curve[NORM]))


def norm_drift(series: pd.DataFrame, size: str) -> dict[str, float]:
    """Compute the slope of log2(norm) against log2(size), with its interval by the scatter.

    Args:
        series: optima with norms, a row a size.
        size: its column.

    Returns:
        `NORM_COLUMNS`, in octaves a doubling; NaN where a norm is not known, as is the interval of
        two sizes. Nothing where there are no norms at all.

    >>> series = pd.DataFrame({"width": [1, 2, 4], "readout_norm": [3.0, 6.0, 12.0]})
    >>> norm_drift(series, "width")
    {'norm_drift': 1.0, 'norm_low': 1.0, 'norm_high': 1.0}
    """
    if NORM not in series:
        return {}
    points = pd.DataFrame({size: series[size], "value": series[NORM], "seed": 0})
    fit = fit_slope(points, size)
    return dict(zip(NORM_COLUMNS, (fit.slope, *fit.interval()), strict=True))


def norm_reading(row: Mapping[Any, Any], name: str) -> str:
    """Say whether the norm of the readout is the same at the best value of every size.

    Args:
        row: with the columns `NORM_COLUMNS`, if there are norms.
        name: of the hyperparameter.

    >>> row = {"norm_drift": 0.02, "norm_low": -0.05, "norm_high": 0.09}
    >>> norm_reading(row, "learning rate")  # doctest: +NORMALIZE_WHITESPACE
    'Norm transfer: constant (0.02 octaves a doubling, 95 % -0.05 to 0.09 by the scatter over
    sizes), the norm of the readout at the best learning rate.'
    """
    drift, low, high = (row.get(column, float("nan")) for column in NORM_COLUMNS)
    if np.isnan(drift):
        return ""
    said = f"{round(drift, 2) + 0.0:.2f} octaves a doubling"
    found = "rises" if drift > 0 else "falls"
    if np.isnan(low):
        said += ", with an error that is not known"
    else:
        said += f", 95 % {low:.2f} to {high:.2f} by the scatter over sizes"
        found = "constant" if low <= 0 <= high else found
    return f"Norm transfer: {found} ({said}), the norm of the readout at the best {name}."
