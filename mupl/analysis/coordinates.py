"""Coordinate checks, from the rows that recorders wrote to slopes and a verdict."""

from typing import Any

import numpy as np
import pandas as pd

from mupl.errors import ConfigError
from mupl.names import block_pattern

TOLERANCE = 0.1  # of a slope of log2(value) against log2(width)
AXES = ("width", "depth")
MEASURED = ("width", "seed", "t", "kind", "name", "statistic", "value", "low", "high", "zero")


def over_blocks(rows: pd.DataFrame) -> pd.DataFrame:
    """Average a recorder's rows over blocks: one row for all blocks in place of one for each.

    >>> rows = pd.DataFrame({"name": ["blocks.0.up", "blocks.1.up"], "value": [1.0, 2.0]})
    >>> over_blocks(rows)
              name  value
    0  blocks.*.up    1.5
    """
    rows = rows.assign(name=rows["name"].map(block_pattern))
    keys = [column for column in rows.columns if column != "value"]
    groups = rows.groupby(keys, sort=False, dropna=False)
    return groups["value"].mean().reset_index()


def check_keys(rows: pd.DataFrame, along: str = "width") -> list[str]:
    """List the columns that tell checks apart: all that is swept but seed, width and `along`.

    >>> check_keys(pd.DataFrame(columns=["width", "seed", "t", "value", "parametrization"]))
    ['parametrization']
    """
    return [column for column in rows.columns if column not in (*MEASURED, along)]


def swept_axis(rows: pd.DataFrame) -> str:
    """Say what the rows were swept along: "depth" for several depths at one width, else "width".

    >>> swept_axis(pd.DataFrame({"width": [64, 64], "depth": [2, 4]}))
    'depth'
    """
    if "depth" in rows and rows["depth"].nunique() > 1 and rows["width"].nunique() == 1:
        return "depth"
    return "width"


def _axis(rows: pd.DataFrame, along: str | None) -> str:
    """Return the column that slopes are taken against, if the rows have it."""
    if rows.empty:
        raise ConfigError("rows: there are none; mupl.coord_check gives them")
    if along is None:
        along = swept_axis(rows)
    if along not in AXES or along not in rows:
        sizes = [axis for axis in AXES if axis in rows]
        raise ConfigError(f"along={along}: must be {' or '.join(sizes)}, as the rows have")
    return along


def verdict(
    rows: pd.DataFrame,
    tolerance: float = TOLERANCE,
    statistic: str = "l1",
    along: str | None = None,
) -> pd.DataFrame:
    """Judge the slope of each tensor, kind and step by what the rule table predicts.

    Args:
        rows: one row a value, with columns width, seed, t, kind, name, statistic, value, and the
            prediction: low and high (the slope must lie between them, up to the tolerance) or zero
            (the value must be 0 at every width). Rows without a prediction are left out.
        tolerance: allowed distance of the mean slope from [low, high].
        statistic: the one that is judged.
        along: the column that slopes are taken against, "width" or "depth"; by default
            `swept_axis` tells.

    Returns:
        One row a tensor, kind and step. Columns: `check_keys`, kind, name, t, slope (the
        mean over seeds of the least-squares slope of log2(value) against log2(`along`); NaN for a
        value that is 0 everywhere), ci_low and ci_high (its 95 % t-interval over seeds; NaN for one
        seed), low, high, zero, passed.

    Raises:
        ConfigError: if there are no rows or fewer than two sizes, or `along` is no size of theirs.

    >>> rows = pd.DataFrame({"width": [64, 128, 256], "value": [1.0, 0.5, 0.25]})
    >>> rows = rows.assign(seed=0, t=1, kind="update", name="hidden", statistic="l1")
    >>> table = verdict(rows.assign(low=-1.0, high=-1.0, zero=False))
    >>> table[["kind", "name", "t", "slope", "passed"]]
         kind    name  t  slope  passed
    0  update  hidden  1   -1.0    True
    """
    along = _axis(rows, along)
    has_range = rows["low"].notna()
    must_be_zero = rows["zero"].fillna(False).astype(bool)
    chosen = rows["statistic"] == statistic
    judged = rows[chosen & (has_range | must_be_zero)]
    if judged[along].nunique() < 2:
        swept = swept_axis(judged)
        remedy = "such as powers of two" if swept == along else f"or say along={swept!r}"
        raise ConfigError(f"{along}: a coordinate check needs at least two, {remedy}")
    keys = [*check_keys(rows, along), "kind", "name", "t"]
    results = []
    for key, group in judged.groupby(keys, sort=False, dropna=False):
        result = dict(zip(keys, key, strict=True))
        result |= _judge(group, tolerance, along)
        results.append(result)
    return pd.DataFrame(results)


def _judge(group: pd.DataFrame, tolerance: float, along: str) -> dict[str, Any]:
    """Judge one tensor, kind and step, from its rows at all widths and seeds."""
    slopes = []
    for _, rows in group.groupby("seed"):
        slopes.append(slope(rows[along], rows["value"]))
    mean = float(np.mean(slopes))
    ci_low, ci_high = interval(np.array(slopes))
    expected = group.iloc[0]
    low = expected["low"]
    high = expected["high"]
    zero = bool(expected["zero"])
    if zero:
        passed = bool((group["value"] == 0).all())
    else:
        passed = bool(low - tolerance <= mean <= high + tolerance)  # False for NaN
    return {
        "slope": mean,
        "ci_low": ci_low,
        "ci_high": ci_high,
        "low": low,
        "high": high,
        "zero": zero,
        "passed": passed,
    }


def failures_by_series(table: pd.DataFrame, series: str = "parametrization") -> pd.DataFrame:
    """Tabulate what fails in a verdict: a row a kind and name (over all blocks), a column a series.

    A cell holds the slope that is farthest from where it must lie, of all steps and blocks; it is
    "" where all pass.
    """
    failed = table[~table["passed"]].copy()
    failed["name"] = failed["name"].map(block_pattern)
    found = failed["slope"]
    distances = pd.DataFrame(
        {
            "above": found - failed["high"],
            "below": failed["low"] - found,
        }
    )
    failed["distance"] = distances.max(axis=1).fillna(np.inf)
    failed["slope"] = found.map("{:+.2f}".format)
    failed = failed.sort_values("distance", ascending=False)
    worst = failed.drop_duplicates([series, "kind", "name"])
    cells = worst.pivot(
        index=["kind", "name"],
        columns=series,
        values="slope",
    )
    cells = cells.reindex(columns=table[series].unique())
    cells = cells.astype(object).fillna("")
    return cells.reset_index()


def slope(size: pd.Series, value: pd.Series) -> float:
    """Fit log2(value) against log2(size) for the slope; NaN if a value is not in (0, inf).

    >>> round(slope(pd.Series([1, 2, 4]), pd.Series([3.0, 6.0, 12.0])), 6)
    1.0
    """
    usable = (value > 0) & np.isfinite(value)
    if not usable.all():
        return float("nan")
    slope, _ = np.polyfit(np.log2(size), np.log2(value), 1)
    return float(slope)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Compute the 95 % t-interval of the mean; NaN for fewer than two values.

    >>> low, high = interval(np.array([1.0, 2.0, 3.0]))
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    from scipy.special import stdtrit  # the quantile of Student's t; here, as one seed needs none

    standard_error = values.std(ddof=1) / np.sqrt(n)
    half = float(stdtrit(n - 1, 0.975) * standard_error)
    mean = float(values.mean())
    return mean - half, mean + half


def verdict_json(table: pd.DataFrame, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Turn a verdict into plain data: if all passed, how many failed, every row (NaN as null)."""
    passed = table["passed"]
    return {
        "passed": bool(passed.all()),
        "failures": int((~passed).sum()),
        "checked": len(table),
        "tolerance": tolerance,
        "rows": records(table),
    }


def records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """Turn rows into plain data, NaN and infinity as None.

    >>> records(pd.DataFrame({"width": [64, 128], "slope": [0.5, np.nan]}))
    [{'width': 64, 'slope': 0.5}, {'width': 128, 'slope': None}]
    """
    finite = table.replace([np.inf, -np.inf], np.nan).astype(object)
    return finite.where(finite.notna(), None).to_dict("records")
