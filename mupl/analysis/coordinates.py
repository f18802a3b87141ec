"""Coordinate checks, from the rows that recorders wrote to slopes and a verdict."""

from typing import Any

import numpy as np
import pandas as pd

from mupl.errors import ConfigError
from mupl.names import block_pattern

TOLERANCE = 0.1  # of a slope in log2(value) against log2(width)
MEASURED = ("width", "seed", "t", "kind", "name", "statistic", "value", "low", "high", "zero")


def over_blocks(rows: pd.DataFrame) -> pd.DataFrame:
    """A recorder's rows with one for all blocks in place of one for each, its value the mean over blocks."""
    rows = rows.assign(name=rows["name"].map(block_pattern))
    keys = [column for column in rows.columns if column != "value"]
    return rows.groupby(keys, sort=False, dropna=False)["value"].mean().reset_index()


def series_keys(rows: pd.DataFrame, along: str = "width") -> list[str]:
    """The columns that tell one check from another: whatever is swept besides seed, width and `along`."""
    return [column for column in rows.columns if column not in (*MEASURED, along)]


def verdict(
    rows: pd.DataFrame, tolerance: float = TOLERANCE, statistic: str = "l1", along: str = "width"
) -> pd.DataFrame:
    """The slope of each tensor, kind and step beside what the rule table predicts, and whether it passes.

    Args:
        rows: one row a value, with columns width, seed, t, kind, name, statistic, value, and the prediction: low and
            high (the slope must lie between them, up to the tolerance) or zero (the value must be 0 at every width).
            Rows without a prediction are left out.
        tolerance: allowed distance of the mean slope from [low, high].
        along: the column that slopes are taken against, "width" or "depth".

    Returns:
        Columns: the series keys, kind, name, t, slope (the mean over seeds of the least-squares slope of log2(value)
        against log2(`along`); NaN for a value that is 0 everywhere), ci_low and ci_high (its 95 % t-interval over
        seeds; NaN for one seed), low, high, zero, passed.

    Raises:
        ConfigError: if there are fewer than two widths.
    """
    judged = rows[
        (rows["statistic"] == statistic)
        & (rows["low"].notna() | rows["zero"].fillna(False).astype(bool))
    ]
    if judged[along].nunique() < 2:
        raise ConfigError(f"{along}: a coordinate check needs at least two, such as powers of two")
    keys = [*series_keys(rows, along), "kind", "name", "t"]
    results = []
    for key, group in judged.groupby(keys, sort=False):
        slopes = np.array([slope(one[along], one["value"]) for _, one in group.groupby("seed")])
        expected = group.iloc[0]
        low, high, zero = expected["low"], expected["high"], bool(expected["zero"])
        inside = low - tolerance <= slopes.mean() <= high + tolerance  # False for NaN
        passed = (group["value"] == 0).all() if zero else inside
        ci_low, ci_high = interval(slopes)
        row = {
            "slope": slopes.mean(),
            "ci_low": ci_low,
            "ci_high": ci_high,
            "low": low,
            "high": high,
            "zero": zero,
        }
        results.append(dict(zip(keys, key, strict=True)) | row | {"passed": bool(passed)})
    return pd.DataFrame(results)


def failures_by_series(table: pd.DataFrame, series: str = "parametrization") -> pd.DataFrame:
    """What fails in a verdict: a row a kind and name (over all blocks), a column a series that holds, of the steps, the
    slope that is farthest from where it must lie ("" where all pass)."""
    failed = table.assign(name=table["name"].map(block_pattern))[~table["passed"]]
    distance = (failed["slope"] - failed["high"]).combine(failed["low"] - failed["slope"], max)
    failed = failed.assign(distance=distance.fillna(np.inf)).sort_values(
        "distance", ascending=False
    )
    worst = failed.drop_duplicates([series, "kind", "name"]).assign(
        slope=lambda t: t["slope"].map("{:+.2f}".format)
    )
    cells = worst.pivot(index=["kind", "name"], columns=series, values="slope")
    return (
        cells.reindex(columns=list(dict.fromkeys(table[series])))
        .astype(object)
        .fillna("")
        .reset_index()
    )


def slope(size: pd.Series, value: pd.Series) -> float:
    """Least-squares slope of log2(value) against log2(size); NaN if a value is 0 or not finite."""
    if not ((value > 0) & np.isfinite(value)).all():
        return float("nan")
    return float(np.polyfit(np.log2(size), np.log2(value), 1)[0])


def interval(slopes: np.ndarray) -> tuple[float, float]:
    """The 95 % t-interval of the mean; NaN for fewer than two values."""
    if len(slopes) < 2:
        return float("nan"), float("nan")
    from scipy.special import (
        stdtrit,
    )  # the quantile of Student's t; not imported where there is one seed

    half = stdtrit(len(slopes) - 1, 0.975) * slopes.std(ddof=1) / np.sqrt(len(slopes))
    return slopes.mean() - half, slopes.mean() + half


def as_json(table: pd.DataFrame, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """A verdict as plain data: whether all passed, how many did not, and every row (NaN as null)."""
    return {
        "passed": bool(table["passed"].all()),
        "failures": int((~table["passed"]).sum()),
        "checked": len(table),
        "tolerance": tolerance,
        "rows": records(table),
    }


def records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows as plain data, NaN and infinity as None."""
    finite = table.replace([np.inf, -np.inf], np.nan).astype(object)
    return finite.where(finite.notna(), None).to_dict("records")
