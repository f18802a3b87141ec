"""Coordinate checks, from the rows that recorders wrote to slopes and a verdict."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mupl.analysis import reasons
from mupl.analysis.slopes import discoveries, fit_slope, larger_half
from mupl.errors import ConfigError
from mupl.names import block_pattern

TOLERANCE = 0.1  # of a slope of log2(value) against log2(width)
# Later networks of different width have learned different things, and the parts of an output's
# change differ more than the whole. Half the least difference between exponents is allowed there: a
# slope within is nearer to the right exponent than to any wrong one.
LATE_TOLERANCE = 0.25
EARLY = 3  # the last step at which weights, updates and outputs must be within TOLERANCE
PARTS = ("effective", "propagating")
MARGIN = 0.15  # beyond the tolerance: what an interval must exclude if a slope is to pass
ROUNDING = 1e-5  # a gradient so much smaller than others in its module is rounding
FADING = 3 / 4  # what is off fades if, over the larger sizes, it is off by less than this share
PASS = "pass"
FAIL = "fail"
NOT_JUDGED = "not judged"
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
    if not isinstance(rows, pd.DataFrame):
        kind = type(rows).__name__
        raise ConfigError(f"rows: must be a table as mupl.coord_check gives, not a {kind}")
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
    statistic: str | None = None,
    along: str | None = None,
) -> pd.DataFrame:
    """Judge the slope of each tensor, kind, statistic and step by what the rule table predicts.

    A slope is fitted over all widths and seeds (`fit_slope`), and its interval counts:

    - "fail": it lies outside of [low, high] by more than the tolerance and than chance explains;
    - "pass": it lies within, and its 95 % interval excludes slopes that are off by `MARGIN` more;
    - "not judged": there are too few seeds or sizes, or no signal (values that are 0 or rounding
      errors), or what is off fades as the sizes grow.

    By chance alone something fails in at most 5 % of checks (`discoveries`, for each series).

    Args:
        rows: one row a value, with columns width, seed, t, kind, name, statistic, value, and the
            prediction: low and high, between which the slope must lie, or zero, where the value
            must be 0. Rows without one are left out; rows of kind "grad" tell rounding errors.
        tolerance: allowed distance of a slope from [low, high]; at least `LATE_TOLERANCE` after
            step `EARLY` and for `PARTS`.
        statistic: the one that is judged; by default all for which there are predictions.
        along: the column that slopes are taken against, "width" or "depth"; by default
            `swept_axis` tells.

    Returns:
        One row a tensor, kind, statistic and step. Columns: `check_keys`, kind, name, statistic, t,
        slope (of log2(value) against log2(`along`)), ci_low and ci_high (its 95 % interval), low,
        high, zero, verdict, and reason: what a failure means and what to try, or why a slope is not
        judged.

    Raises:
        ConfigError: if there are no rows or fewer than two sizes, or `along` is no size of theirs.

    >>> rows = pd.DataFrame({"width": [64, 128, 256], "value": [1.0, 0.5, 0.25]})
    >>> rows = rows.assign(seed=0, t=1, kind="update", name="hidden", statistic="l1")
    >>> table = verdict(rows.assign(low=-1.0, high=-1.0, zero=False))
    >>> table[["kind", "name", "t", "slope", "verdict"]]
         kind    name  t  slope verdict
    0  update  hidden  1   -1.0    pass
    """
    along = _axis(rows, along)
    chosen = rows if statistic is None else rows[rows["statistic"] == statistic]
    by_series = _cases(chosen, along, tolerance, _rounding_errors(rows))
    judged = [pd.DataFrame(_judged(cases)) for cases in by_series.values()]
    return pd.concat(judged, ignore_index=True)


def _judged(cases: Sequence["_Case"]) -> list[dict[str, Any]]:
    """Return the verdict's rows of one series, which share the 5 % that fail by chance alone."""
    found = discoveries([case.chance() for case in cases])
    return [case.row(is_off) for case, is_off in zip(cases, found, strict=True)]


def _cases(
    rows: pd.DataFrame, along: str, tolerance: float, rounding: Collection[str]
) -> dict[str, list["_Case"]]:
    """Group the rows that have a prediction by series, and then by tensor, kind and step."""
    has_range = rows["low"].notna()
    must_be_zero = rows["zero"].fillna(False).astype(bool)
    judged = rows[has_range | must_be_zero]
    if judged[along].nunique() < 2:
        swept = swept_axis(judged)
        remedy = "such as powers of two" if swept == along else f"or say along={swept!r}"
        raise ConfigError(f"{along}: a coordinate check needs at least two, {remedy}")
    series = check_keys(rows, along)
    keys = [*series, "kind", "name", "statistic", "t"]
    by_series: dict[str, list[_Case]] = {}
    for key, group in judged.groupby(keys, sort=False, dropna=False):
        names = dict(zip(keys, key, strict=True))
        case = _Case(names, group, along, tolerance, rounding)
        by_series.setdefault(str(key[: len(series)]), []).append(case)
    return by_series


class _Case:
    """One tensor, kind and step: its rows at all sizes and seeds, beside what must be seen."""

    def __init__(
        self,
        names: dict[str, Any],
        group: pd.DataFrame,
        along: str,
        tolerance: float,
        rounding: Collection[str],
    ) -> None:
        self.names = names
        self.along = along
        self.is_late = names["t"] > EARLY or names["kind"] in PARTS
        self.tolerance = max(tolerance, LATE_TOLERANCE) if self.is_late else tolerance
        self.zero = bool(group["zero"].iloc[0])
        # Runs differ in what must be seen where eps is felt at some sizes only.
        self.low = float(group["low"].min())
        self.high = float(group["high"].max())
        self.is_finite = bool(np.isfinite(group["value"]).all())
        self.zeros = int((group["value"] == 0).sum())
        self.runs = len(group)
        self.fit = fit_slope(group, along)
        self.larger = fit_slope(larger_half(group, along), along).slope
        is_start = names["kind"] == "param" and names["t"] == 0
        self.is_rounding = names["name"] in rounding and not is_start

    def chance(self) -> float:
        """Return the probability that what is off is so by chance; 1 if nothing is off."""
        if not self.is_finite:
            return 0.0
        if self.zero:
            return float(self.zeros == self.runs)
        outside = self._off(self.fit.slope) - self.tolerance
        if self._no_signal() or self._fades() or outside <= 0:
            return 1.0
        if math.isnan(self.fit.error):  # nothing tells the error, so what is far off counts
            return 0.0 if outside > LATE_TOLERANCE else 1.0
        return self.fit.chance(outside)

    def row(self, is_off: bool) -> dict[str, Any]:
        """Return the row of the verdict; `is_off` says that chance does not explain what is off."""
        ci_low, ci_high = self.fit.interval()
        row = self.names | {
            "slope": self.fit.slope,
            "ci_low": ci_low,
            "ci_high": ci_high,
            "low": self.low,
            "high": self.high,
            "zero": self.zero,
        }
        if is_off:
            return row | {"verdict": FAIL, "reason": self._failure(row)}
        reason = "" if self.zero else self._no_signal() or self._fades() or self._uncertain()
        return row | {"verdict": NOT_JUDGED if reason else PASS, "reason": reason}

    def _off(self, slope: float) -> float:
        """Return by how much a slope lies outside of [low, high]; negative inside."""
        return max(slope - self.high, self.low - slope)

    def _failure(self, row: dict[str, Any]) -> str:
        if not self.is_finite:
            return reasons.not_finite(row)
        if self.zero:
            return reasons.not_zero(row)
        return reasons.wrong_slope(row, self.along)

    def _no_signal(self) -> str:
        """Say why there is nothing to fit a slope to; "" if there is."""
        if self.zeros == self.runs:
            return "no signal: it is 0 at every size, as behind a gain or a layer that starts at 0"
        if self.is_rounding:
            return "no signal: its gradient is rounding errors, as for the bias of keys"
        if self.zeros:
            return f"no signal: it is 0 in {self.zeros} of {self.runs} runs"
        return ""

    def _fades(self) -> str:
        """Say that what is off becomes less as the sizes grow; "" if it does not."""
        off = self._off(self.fit.slope)
        left = self._off(self.larger)
        if off <= self.tolerance or left >= FADING * off:
            return ""
        if self.is_late and left > self.tolerance:  # still nearer to a wrong exponent
            return ""
        return (
            f"it fades: the slope is {self.fit.slope:.2f}, but {self.larger:.2f} over the larger "
            "half of the sizes; take larger ones"
        )

    def _uncertain(self) -> str:
        """Say why a slope is neither right nor wrong; "" if it is right."""
        low, high = self.fit.interval()
        found = f"too few seeds or sizes: the slope is {self.fit.slope:.2f}"
        if math.isnan(low):
            return f"{found}, and nothing tells how certain that is"
        if self._off(self.fit.slope) > self.tolerance:
            return f"{found}, which may be chance ({low:.2f} to {high:.2f})"
        limit = self.tolerance + MARGIN
        if low < self.low - limit or high > self.high + limit:
            return f"{found}, but may be {low:.2f} to {high:.2f}"
        return ""


def _rounding_errors(rows: pd.DataFrame) -> set[str]:
    """Name the tensors whose gradient is nothing but rounding errors.

    An example is the bias of keys, which softmax does not feel. Such a gradient is far below
    the gradient of another tensor of the same module.
    """
    gradients = rows[(rows["kind"] == "grad") & rows["statistic"].isin(["l1", "rms"])]
    sizes = gradients.groupby("name")["value"].median()
    modules = [name.rpartition(".")[0] for name in sizes.index]
    largest = sizes.groupby(modules).transform("max")
    is_rounding = (sizes > 0) & (sizes < ROUNDING * largest)
    return set(sizes.index[is_rounding])


def alignment_exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Fit how the alignment of each layer's updates with its inputs goes with width.

    The slope is of log RMS((W_t - W_0) x_t) / (RMS(W_t - W_0) RMS(x_t)) against log(width). Where
    fan_in grows it is 1 if changes and inputs point the same way, and 1/2 if they are independent
    (Everett et al. 2024); else about 0. It is reported and not judged: most tables assume 1.

    Returns:
        One row a layer and step. Columns: `check_keys`, name, t, slope, ci_low, ci_high.

    >>> rows = pd.DataFrame({"width": [64, 128], "value": [64.0, 128.0], "kind": "alignment"})
    >>> rows = rows.assign(name="hidden", seed=0, t=4, statistic="l1")
    >>> alignment_exponents(rows)["slope"].tolist()
    [1.0]
    """
    found = rows[rows["kind"] == "alignment"]
    keys = [*check_keys(rows), "name", "t"]
    exponents = []
    for key, group in found.groupby(keys, sort=False, dropna=False):
        fit = fit_slope(group, "width")
        if math.isfinite(fit.slope):  # else nothing has moved yet
            row = dict(zip(keys, key, strict=True))
            row["slope"] = fit.slope
            row["ci_low"], row["ci_high"] = fit.interval()
            exponents.append(row)
    return pd.DataFrame(exponents)


def relative_updates(rows: pd.DataFrame) -> pd.DataFrame:
    """Fit how the relative update of each tensor goes with width: |W_(t+1) - W_t| / |W_t|.

    The norms are Frobenius norms if these were recorded, else means of entries. Under decoupled
    weight decay the ratio settles, as the root of lr * weight_decay (Kosson et al. 2023), so that a
    late slope of 0 says that this product is right at every width. It is reported and not judged:
    when tensors have settled is not known.

    Returns:
        One row a tensor and step at which it is not 0. Columns: `check_keys`, name, t, smallest and
        largest (means over seeds at these widths), slope, ci_low, ci_high.

    >>> rows = pd.DataFrame({"width": [64, 128] * 2, "value": [0.2, 0.1, 2.0, 2.0]})
    >>> rows = rows.assign(kind=["update"] * 2 + ["param"] * 2, name="hidden", seed=0, t=4)
    >>> relative_updates(rows.assign(statistic="l1"))[["smallest", "largest", "slope"]]
       smallest  largest  slope
    0       0.1     0.05   -1.0
    """
    statistic = "frobenius" if (rows["statistic"] == "frobenius").any() else "l1"
    keys = [*check_keys(rows), "name", "t"]
    of_run = [*keys, "width", "seed"]
    is_norm = rows["statistic"] == statistic
    is_of_weight = rows["kind"].isin(["update", "param"])
    found = rows[is_norm & is_of_weight]
    norms = found.pivot_table("value", of_run, "kind", sort=False, dropna=False)
    if not {"update", "param"} <= set(norms):
        return pd.DataFrame()
    ratio = (norms["update"] / norms["param"]).rename("value")
    is_moving = np.isfinite(ratio) & (ratio > 0)
    moving = ratio[is_moving].reset_index()
    relative = []
    for key, group in moving.groupby(keys, sort=False, dropna=False):
        fit = fit_slope(group, "width")
        by_width = group.groupby("width")["value"].mean()
        row = dict(zip(keys, key, strict=True))
        row["smallest"] = by_width.iloc[0]
        row["largest"] = by_width.iloc[-1]
        row["slope"] = fit.slope
        row["ci_low"], row["ci_high"] = fit.interval()
        relative.append(row)
    return pd.DataFrame(relative)


def failures_by_series(table: pd.DataFrame, series: str = "parametrization") -> pd.DataFrame:
    """Tabulate what fails in a verdict: a row a kind and name (over all blocks), a column a series.

    A cell holds the slope that is farthest from where it must lie, of all steps and blocks; it is
    "" where all pass.
    """
    failed = table[table["verdict"] == FAIL].copy()
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


def has_failed(table: pd.DataFrame) -> bool:
    """Say whether a verdict has a failure; what is not judged is none.

    >>> has_failed(pd.DataFrame({"verdict": ["pass", "not judged"]}))
    False
    """
    return bool((table["verdict"] == FAIL).any())


def sentences(table: pd.DataFrame) -> list[str]:
    """List the reasons of a verdict: once for the steps and for blocks alike, by the first.

    >>> table = pd.DataFrame({"kind": "output", "name": ["blocks.0", "blocks.1"], "t": [1, 2]})
    >>> sentences(table.assign(statistic="l1", verdict="not judged", reason="no signal: it is 0"))
    ['output blocks.0 and 1 like it, t = 1, 2: no signal: it is 0']
    """
    alike = table.groupby(["kind", "statistic", table["name"].map(block_pattern)], sort=False)
    lines = []
    for _, rows in alike:
        first = rows.iloc[0]
        others = rows["name"].nunique() - 1
        names = f"{first['name']} and {others} like it" if others else first["name"]
        steps = ", ".join(map(str, sorted(rows["t"].unique())))
        kind = first["kind"]
        if first["statistic"] != "l1":
            kind = f"{first['statistic']} of {kind}"
        lines.append(f"{kind} {names}, t = {steps}: {first['reason']}")
    return lines


def count(table: pd.DataFrame) -> str:
    """Say how many tensors, kinds and steps got which verdict.

    >>> count(pd.DataFrame({"verdict": ["pass", "pass", "not judged"]}))
    '2 of 3 tensors, kinds and steps pass, 1 not judged'
    """
    words = table["verdict"].value_counts()
    text = f"{words.get(PASS, 0)} of {len(table)} tensors, kinds and steps pass"
    if FAIL in words:
        text += f", {words[FAIL]} fail"
    if NOT_JUDGED in words:
        text += f", {words[NOT_JUDGED]} not judged"
    return text


def verdict_json(table: pd.DataFrame, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Turn a verdict into plain data: if none failed, the counts, every row (NaN as null)."""
    failures = int((table["verdict"] == FAIL).sum())
    return {
        "passed": failures == 0,
        "failures": failures,
        "not_judged": int((table["verdict"] == NOT_JUDGED).sum()),
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
