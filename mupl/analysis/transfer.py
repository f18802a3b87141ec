"""Hyperparameter transfer, from a sweep's table of results to optima and their drift.

All functions take a table of results: one row a run, with the columns seed, status, a loss, the
swept hyperparameter, and whatever else tells runs apart. Sweeps have width, lr, parametrization and
optimizer; `mupl.analysis.loss_tables` makes such a table of anybody's file, with the column table.

`transfer` ends with a row for each series of sizes. `mupl.analysis.columns` says what its columns
mean; fit_error, robustness and the asymptotic losses are what Kalra & Barkeshli (2026) ask for. As
formulas, with the optimal x and the best loss of each size:

- drift: slope of log2(x) against log2(size); drift_low, drift_high: its 95 % interval over seeds,
  by the drifts of mean losses without each seed (`mupl.analysis.slopes.jackknife`). A seed moves a
  whole curve of losses more than its optimum, so that these intervals are narrower than the scatter
  of the losses;
- scatter_low, scatter_high: its 95 % t-interval by the scatter of the optima about the line, which
  needs no seeds but three sizes;
- robustness: slope of log2(curvature of the loss at the optimum) against log2(size); NaN where
  fewer than two sizes have a curvature;
- asymptotic_loss, loss_power: L and p of the best losses L + c size^-p; NaN below four sizes;
- norm_drift: slope of log2(norm of the readout at the optimum) against log2(size)
  (`mupl.analysis.readout_norms`);
- sizes, drift_seeds: how many optima the drift is of, and how many seeds its interval is over: all
  that tried every x of these sizes.

Where x is no number but a choice there is no drift, fit_error or robustness.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.analysis.coordinates import records
from mupl.analysis.readout_norms import norm_drift, with_norms
from mupl.analysis.slopes import fit_slope, jackknife
from mupl.identity import IDENTITY, OUTCOMES, value_text

# Columns whose transfer is asked for, in this order, with their names
HYPERPARAMETERS = {
    "lr": "learning rate",
    "model.output_mult": "output multiplier",
    "model.init_std": "initial std",
    "model.input_mult": "input multiplier",
    "model.attention_mult": "attention multiplier",
    "model.residual_mult": "residual multiplier",
    "weight_decay": "weight decay",
    "scheduler": "schedule",
}
BY_MODULE = "tune."  # how columns of factors by module begin
# and along which
SIZES = {
    "width": "width",
    "depth": "depth",
    "batch_size": "batch size",
    "data.context": "context",
    "max_steps": "steps",
}
# Columns that tell curves apart also where they are the same in all runs
SERIES = ("table", "parametrization", "optimizer", "width", "lr")
POWERS = np.linspace(0.125, 4, 311)  # of size, that a law of losses may have
SELF_EXPLAINING = ("table", "parametrization", "optimizer")  # labels need not name these
NAN = float("nan")
INF = float("inf")


def without_failed(results: pd.DataFrame) -> pd.DataFrame:
    """Leave out the rows of runs that failed.

    Values that only these had, such as the words in lr=abc and width=wide, are gone with them: what
    is left is as if these runs had never been asked for.

    >>> results = pd.DataFrame({"lr": [0.1, "abc"], "status": ["completed", "failed"]})
    >>> without_failed(results).dtypes["lr"]
    dtype('float64')
    """
    return results[results["status"] != "failed"].infer_objects()


def curve_keys(results: pd.DataFrame, x: str = "lr", metric: str = "val_loss") -> list[str]:
    """List the columns that tell curves of loss over x apart: all that is swept but seed and x.

    Columns of `SERIES` are among them even if they are the same in all runs.

    >>> table = pd.DataFrame({"lr": [0.1, 0.2], "depth": [2, 4], "context": [16, 16]})
    >>> curve_keys(table.assign(parametrization="mup", loss=[3.0, 2.0]), x="lr", metric="loss")
    ['parametrization', 'depth']
    """
    keys = [key for key in SERIES if key in results]
    keys += [key for key in differing_columns(results) if key not in (*IDENTITY, *SERIES)]
    return [key for key in keys if key not in (x, metric)]


def differing_columns(results: pd.DataFrame) -> list[str]:
    """List the columns, but outcomes, in which runs differ; a missing value counts as one."""
    columns = [str(column) for column in results if column not in OUTCOMES]
    return [column for column in columns if results[column].nunique(dropna=False) > 1]


def differing_keys(table: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Keep the keys in which rows differ; the first one if they differ in none.

    >>> differing_keys(pd.DataFrame({"table": ["a", "a"], "depth": [2, 4]}), ["table", "depth"])
    ['depth']
    """
    differing = [key for key in keys if table[key].nunique(dropna=False) > 1]
    return differing or [*keys[:1]]


def setting_text(value: Any) -> str:
    """Write a value of a table as a config has it.

    A column of whole numbers holds fractions once one of them is missing.

    >>> setting_text(4.0), setting_text(0.016), setting_text("gelu"), setting_text(NAN)
    ('4', '0.016', 'gelu', 'not set')
    """
    if pd.isna(value):
        return "not set"
    return value_text(value) if isinstance(value, float) else str(value)


def labels(settings: pd.DataFrame) -> pd.Series:
    """Return the label of each row of settings.

    >>> labels(pd.DataFrame({"parametrization": ["sp"], "model.depth": [2]})).tolist()
    ['sp, depth=2']
    """
    texts = settings.map(setting_text)
    for key in settings:
        if key not in SELF_EXPLAINING:
            short = str(key).rpartition(".")[2]
            texts[key] = f"{short}=" + texts[key]
    return texts.agg(", ".join, axis=1)


def curves(
    results: pd.DataFrame,
    metric: str = "val_loss",
    x: str = "lr",
    keys: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Compute mean, min and max over seeds of the metric at each x of each curve.

    An x at which a seed diverged or failed to give a finite loss has an infinite mean: it is no
    candidate for the best one. Failed runs are left out. Columns: `keys`, x, mean, min, max, seeds.

    Args:
        results: one row a run.
        metric: the loss.
        x: the hyperparameter.
        keys: the columns that tell curves apart; by default `curve_keys`.

    >>> results = pd.DataFrame({"lr": [0.1, 0.1, 0.2], "seed": [0, 1, 0], "val_loss": [1, 2, 3.0]})
    >>> results = results.assign(width=64, parametrization="mup", optimizer="adamw")
    >>> table = curves(results.assign(status=["completed", "completed", "diverged"]))
    >>> table[["lr", "mean", "min", "max", "seeds"]]
        lr  mean  min  max  seeds
    0  0.1   1.5  1.0  2.0      2
    1  0.2   inf  inf  inf      1
    """
    runs = without_failed(results)
    completed = runs["status"] == "completed"
    losses = runs[metric].where(completed, INF)
    losses = losses.fillna(INF)
    if keys is None:
        keys = curve_keys(results, x, metric)
    columns = [runs[key] for key in (*keys, x)]
    groups = losses.groupby(columns, dropna=False)
    table = groups.agg(
        mean="mean",
        min="min",
        max="max",
        seeds="size",
    )
    return in_given_order(table.reset_index(), list(dict.fromkeys(results.get("table", ()))))


def in_given_order(rows: pd.DataFrame, tables: Sequence[str]) -> pd.DataFrame:
    """Sort rows that have a column table as these tables follow each other; else leave them.

    >>> rows = pd.DataFrame({"table": ["after", "before"], "lr": [0.1, 0.2]})
    >>> in_given_order(rows, ["before", "after"])["lr"].tolist()
    [0.2, 0.1]
    """
    if "table" not in rows:
        return rows
    places = {name: place for place, name in enumerate(tables)}
    order = rows["table"].map(places).sort_values(kind="stable").index
    return rows.loc[order].reset_index(drop=True)


def best(results: pd.DataFrame, metric: str = "val_loss", x: str = "lr") -> pd.DataFrame:
    """Find the best x of each curve, and its mean loss.

    Columns: `curve_keys`, x, the metric, seeds, and `at_edge`: whether x is the smallest or largest
    number tried. A curve on which every run diverged is left out.
    """
    keys = curve_keys(results, x, metric)
    table = curves(results, metric, x)
    values = table[x]
    by_curve = table.groupby(keys, dropna=False)
    tried = by_curve[x]
    is_first = values == tried.transform("min")
    is_last = values == tried.transform("max")
    several = tried.transform("nunique") > 1
    ordered = is_numeric_dtype(values)
    table["at_edge"] = (is_first | is_last) & several & ordered
    finite = table[table["mean"] < INF]
    by_curve = finite.groupby(keys, dropna=False)
    rows = by_curve["mean"].idxmin().sort_values()  # in the order of the curves
    columns = [*keys, x, "mean", "seeds", "at_edge"]
    table = finite.loc[rows, columns].reset_index(drop=True)
    return table.rename(columns={"mean": metric})


def swept_hyperparameter(results: pd.DataFrame) -> str:
    """Return the first hyperparameter that has two or more values; lr if there is none.

    `HYPERPARAMETERS` come first, and then factors by module.

    >>> swept_hyperparameter(pd.DataFrame({"lr": [0.1, 0.1], "model.init_std": [1, 2]}))
    'model.init_std'
    """
    factors = [str(column) for column in results if str(column).startswith(BY_MODULE)]
    for x in (*HYPERPARAMETERS, *factors):
        if _is_swept(results, x):
            return x
    return "lr"


def hyperparameter_name(x: str) -> str:
    """Name a hyperparameter's column in words; one that is not known goes by its own name.

    >>> hyperparameter_name("lr"), hyperparameter_name("tune.hidden.lr")
    ('learning rate', 'hidden.lr factor')
    >>> hyperparameter_name("optimizer.beta2")
    'beta2'
    """
    if x.startswith(BY_MODULE):
        return f"{x.removeprefix(BY_MODULE)} factor"
    return HYPERPARAMETERS.get(x, x.rpartition(".")[2])


def swept_size(results: pd.DataFrame) -> str | None:
    """Return the first of `SIZES` that has two or more values, all numeric; None if none has.

    >>> swept_size(pd.DataFrame({"width": [64, 64], "depth": [2, 4]}))
    'depth'
    """
    for size in SIZES:
        if _is_swept(results, size):
            values = pd.to_numeric(results[size], errors="coerce")
            if values.notna().all():
                return size
    return None


def _is_swept(results: pd.DataFrame, key: str) -> bool:
    return key in results and results[key].nunique() > 1


@dataclass(frozen=True)
class Optimum:
    """The optimum of one curve of losses over a hyperparameter x.

    A parabola in log2(x) through the best point and its two neighbours has its minimum there. Where
    the best point has no two finite neighbours, or x is no number but a choice, the best point
    itself is the optimum.

    Args:
        x: the optimal value.
        loss: at the optimum.
        curvature: the second derivative of the parabola, in loss per octave^2; NaN without one.
        at_edge: whether the best point is the smallest or largest number tried, or the only one.
    """

    x: float | str
    loss: float
    curvature: float
    at_edge: bool

    @classmethod
    def of(cls, x: pd.Series, loss: pd.Series) -> "Optimum":
        """Find the optimum.

        Args:
            x: values in increasing order, or choices.
            loss: at each x; may be infinite but not everywhere.

        >>> x = pd.Series([1.0, 2.0, 4.0])
        >>> Optimum.of(x, (np.log2(x) - 1) ** 2).x
        2.0
        """
        losses = loss.to_numpy(float)
        best = int(losses.argmin())
        least = float(losses[best])
        if not is_numeric_dtype(x):
            return cls(x.iloc[best], least, NAN, at_edge=False)
        octaves = np.log2(x.to_numpy(float))
        centre = octaves[best]
        at_best = float(2**centre)
        last = len(losses) - 1
        at_edge = best in (0, last)
        near = slice(best - 1, best + 2)
        if at_edge or not np.isfinite(losses[near]).all():
            return cls(at_best, least, NAN, at_edge)
        # loss = a u^2 + b u + c, with u in octaves from the best point
        a, b, c = np.polyfit(octaves[near] - centre, losses[near], 2)
        if a <= 0:  # three equal losses
            return cls(at_best, least, 0.0, at_edge)
        lowest = -b / (2 * a)
        loss_there = float(c - b**2 / (4 * a))
        curvature = float(2 * a)
        return cls(float(2 ** (centre + lowest)), loss_there, curvature, at_edge)

    def regret(self, at: float | str, x: pd.Series, loss: pd.Series) -> float:
        """Subtract the loss of the optimum from the loss at the value `at`.

        Between the two neighbours of the best point the parabola gives the loss. Farther off, and
        where there is no parabola, it is interpolated from one grid point to the next. NaN at a
        choice that was not tried.

        Args:
            at: a value of the hyperparameter.
            x, loss: the curve that this is the optimum of.
        """
        losses = loss.to_numpy(float)
        if isinstance(at, str) or isinstance(self.x, str):
            by_choice = dict(zip(x, losses, strict=True))
            return float(by_choice.get(at, NAN) - self.loss)
        grid = np.log2(x.to_numpy(float))
        if self.curvature > 0:
            best = int(losses.argmin())
            if grid[best - 1] <= np.log2(at) <= grid[best + 1]:
                distance = np.log2(at / self.x)
                return float(self.curvature / 2 * distance**2)
        with np.errstate(invalid="ignore"):  # NaN between a finite loss and an infinite one
            there = float(np.interp(np.log2(at), grid, losses))
        if np.isnan(there):
            return INF
        return there - self.loss


def optima(
    results: pd.DataFrame, metric: str = "val_loss", size: str = "width", x: str = "lr"
) -> pd.DataFrame:
    """Find the optimal x of each curve, and what the smallest size's optimal x costs there.

    Columns: `curve_keys`, x (of the mean over seeds; see `Optimum`), loss, curvature, at_edge,
    regret (loss at the smallest size's optimal x over that at its own) and grid_regret (the same of
    the values that were tried, without a parabola). Where x is a number also its 95 % interval over
    the seeds that tried every x of the curve, by the `jackknife` of log2(x), as `{x}_low` and
    `{x}_high`; readout_norm where that is known. Curves on which every run diverged are left out.

    >>> grid = [(width, lr) for width in (64, 128) for lr in (0.5, 1.0, 2.0)]
    >>> results = pd.DataFrame(grid, columns=["width", "lr"])
    >>> results = results.assign(seed=0, parametrization="mup", optimizer="adamw")
    >>> losses = np.log2(results["lr"]) ** 2 + 1
    >>> table = optima(results.assign(status="completed", val_loss=losses))
    >>> table[["width", "lr", "loss", "regret"]]
       width   lr  loss  regret
    0     64  1.0   1.0     0.0
    1    128  1.0   1.0     0.0
    """
    keys = curve_keys(results, x, metric)
    table = curves(results, metric, x)
    by_curve = table.groupby(keys, dropna=False)
    least = by_curve["mean"].transform("min")
    trained = table[np.isfinite(least)]
    rows = []
    for _, series in trained.groupby(_without(size, keys), sort=False, dropna=False):
        rows += _of_series(series, keys, size, x)
    found = pd.DataFrame(rows)
    if is_numeric_dtype(table[x]) and not found.empty:
        runs = curves(results, metric, x, [*keys, "seed"])
        factor = 2 ** _intervals(found[keys], runs, size, x, _log2_optimum)["half"]
        found.insert(len(keys) + 1, f"{x}_low", found[x] / factor)
        found.insert(len(keys) + 2, f"{x}_high", found[x] * factor)
    return with_norms(found, results, keys, x)


def _of_series(series: pd.DataFrame, keys: list[str], size: str, x: str) -> list[dict[Any, Any]]:
    """Find the optimum of each size, from the smallest on, in the curves of one series."""
    rows = []
    smallest: Optimum | None = None
    best_of_smallest: float | str = NAN
    for _, curve in series.groupby(size):
        values = curve[x]
        losses = curve["mean"]
        optimum = Optimum.of(values, losses)
        if smallest is None:
            smallest = optimum
            best_of_smallest = values.iloc[int(losses.argmin())]
        row = curve[keys].iloc[0].to_dict()
        row[x] = optimum.x
        row["loss"] = optimum.loss
        row["curvature"] = optimum.curvature
        row["at_edge"] = optimum.at_edge
        row["regret"] = optimum.regret(smallest.x, values, losses)
        measured = losses[values == best_of_smallest]
        row["grid_regret"] = measured.sum(min_count=1) - losses.min()  # NaN if it was not tried
        rows.append(row)
    return rows


def _without(key: str, keys: list[str]) -> list[str]:
    return [other for other in keys if other != key]


def transfer(
    results: pd.DataFrame,
    metric: str = "val_loss",
    size: str = "width",
    x: str = "lr",
    found: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Say how well x transfers along `size`: one row a series of two or more sizes.

    Columns: the keys of the series (`curve_keys` without the size), and those that the head of
    this module lists.

    Args:
        results: one row a run.
        metric: the loss.
        size, x: columns of the size and the hyperparameter.
        found: the `optima`, where they are known.
    """
    if found is None:
        found = optima(results, metric, size, x)
    if found.empty:
        return found
    keys = _without(size, curve_keys(results, x, metric))
    ordered = is_numeric_dtype(found[x])
    rows = []
    for key, series in found.groupby(keys, sort=False, dropna=False):
        if len(series) < 2:
            continue
        row = dict(zip(keys, key, strict=True))
        if ordered:
            row |= _scaling_law(series, size, x)
        row |= _losses_along(series, size)
        row |= norm_drift(series, size)
        rows.append(row)
    table = _with_penalty(pd.DataFrame(rows), keys)
    if table.empty or not ordered:
        return table
    runs = curves(results, metric, x, [*keys, size, "seed"])
    runs = table[keys].merge(found[[*keys, size]], on=keys).merge(runs, on=[*keys, size])
    intervals = _intervals(table[keys], runs, size, x, _drift)
    table.insert(len(keys) + 1, "drift_low", table["drift"] - intervals["half"])
    table.insert(len(keys) + 2, "drift_high", table["drift"] + intervals["half"])
    table.insert(len(keys) + 3, "drift_seeds", intervals["seeds"])
    return table


def _losses_along(series: pd.DataFrame, size: str) -> dict[str, Any]:
    """Compute the columns of `transfer` that follow from the losses of one series of optima."""
    sizes = series[size].to_numpy(float)
    losses = series["loss"].to_numpy(float)
    law = LossLaw.of(sizes, losses)
    at_edge = sizes[series["at_edge"].to_numpy(bool)]
    return {
        "worst_regret": series["regret"].max(),
        "grid_regret": series["grid_regret"].max(skipna=False),
        "edges": ", ".join(f"{value:g}" for value in at_edge),
        "asymptotic_loss": law.limit,
        "loss_power": law.power,
    }


def _with_penalty(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Add asymptotic_penalty: asymptotic_loss over the least one of the parametrizations."""
    if table.empty or "parametrization" not in keys:
        return table
    alike = _without("parametrization", keys)
    losses = table["asymptotic_loss"]
    by_series = table.groupby(alike, dropna=False)
    least = by_series["asymptotic_loss"].transform("min")
    return table.assign(asymptotic_penalty=losses - least)


def _scaling_law(series: pd.DataFrame, size: str, x: str) -> dict[str, Any]:
    """Compute the columns of `transfer` that follow from the scaling law of one series.

    Args:
        series: rows of `optima`, one a size.
        size, x: their columns.
    """
    log_size = np.log2(series[size].to_numpy(float))
    log_x = np.log2(series[x].to_numpy(float))
    line = np.polyfit(log_size, log_x, 1)
    errors = np.polyval(line, log_size) - log_x
    points = pd.DataFrame({size: series[size], "value": series[x], "seed": 0})
    low, high = fit_slope(points, size).interval()
    curvature = series["curvature"].to_numpy(float)
    curved = curvature > 0
    robustness = NAN
    if curved.sum() > 1:
        log_curvature = np.log2(curvature[curved])
        robustness, _ = np.polyfit(log_size[curved], log_curvature, 1)
    return {
        "drift": line[0],
        "sizes": len(series),
        "scatter_low": low,
        "scatter_high": high,
        "fit_error": float(np.sqrt(np.mean(errors**2))),
        "robustness": robustness,
    }


@dataclass(frozen=True)
class LossLaw:
    """The law limit + c (size / smallest size)^-power of the best losses."""

    limit: float
    c: float
    power: float

    @classmethod
    def of(cls, size: np.ndarray, loss: np.ndarray) -> "LossLaw":
        """Fit by least squares, with a power between 1/8 and 4; NaN below four sizes.

        >>> size = np.array([64.0, 128.0, 256.0, 512.0])
        >>> law = LossLaw.of(size, 1.5 + 3 * 64 / size)
        >>> round(law.limit, 6), round(law.c, 6), round(law.power, 6)
        (1.5, 3.0, 1.0)
        """
        if len(size) < 4:
            return cls(NAN, NAN, NAN)
        fits = []
        relative_size = size / size.min()
        constant = np.ones_like(size)
        for power in POWERS:
            falling = relative_size**-power
            terms = np.stack([constant, falling], axis=1)
            solution, *_ = np.linalg.lstsq(terms, loss)
            errors = terms @ solution - loss
            squares = float((errors**2).sum())
            limit, c = map(float, solution)
            fits.append((squares, limit, c, float(power)))
        _, limit, c, power = min(fits)
        return cls(limit, c, power)


def transfer_json(
    optima: pd.DataFrame, transfer: pd.DataFrame, metric: str, size: str, x: str = "lr"
) -> dict[str, Any]:
    """Turn the tables of `optima` and `transfer` into plain data (NaN and infinity as null)."""
    return {
        "metric": metric,
        "size": size,
        "x": x,
        "optima": records(optima),
        "transfer": records(transfer),
    }


def _intervals(
    groups: pd.DataFrame,
    runs: pd.DataFrame,
    size: str,
    x: str,
    estimate: Callable[[pd.Series], float],
) -> pd.DataFrame:
    """Say how far the 95 % interval over seeds of an estimate extends to either side of it.

    One row a group, in their order. Columns: the keys of the groups, half (that distance; see
    `jackknife`) and seeds. A seed counts if it has a loss, which may be infinite, at every size and
    x of its group: else means would be over other seeds at one x than at the next.

    Args:
        groups: the keys of each group that has an estimate.
        runs: one row for each of the keys, size, x and seed, with the loss in the column mean.
        size, x: columns of the size and the hyperparameter.
        estimate: of losses that are means over seeds, indexed by size and x.
    """
    rows = []
    keys = list(groups)
    for key, group in runs.groupby(keys, dropna=False):
        losses = group.pivot(index="seed", columns=[size, x], values="mean").dropna()
        n = len(losses)
        without = []
        if n > 1:
            without = [estimate(losses[np.arange(n) != i].mean()) for i in range(n)]
        rows.append((*key, jackknife(np.array(without)), n))
    found = pd.DataFrame(rows, columns=[*keys, "half", "seeds"])
    return groups.merge(found, how="left", on=keys)


def _log2_optimum(losses: pd.Series) -> float:
    """Return log2 of the optimal x of losses that are indexed by size and x, at one size."""
    x = losses.index.get_level_values(1).to_series()
    return float(np.log2(Optimum.of(x, losses).x))


def _drift(losses: pd.Series) -> float:
    """Return the drift of the optimal x of losses that are indexed by size and x."""
    octaves = losses.groupby(level=0).agg(_log2_optimum)
    drift, _ = np.polyfit(np.log2(octaves.index.to_numpy(float)), octaves, 1)
    return float(drift)
