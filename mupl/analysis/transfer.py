"""Hyperparameter transfer, from a sweep's table of results to numbers."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.analysis.coordinates import interval, records
from mupl.identity import IDENTITY, OUTCOMES

# Columns whose transfer is asked for, in this order, with their names
HYPERPARAMETERS = {
    "lr": "learning rate",
    "model.output_mult": "output multiplier",
    "model.init_std": "initial std",
    "model.input_mult": "input multiplier",
    "model.attention_mult": "attention multiplier",
    "model.residual_mult": "residual multiplier",
    "scheduler": "schedule",
}
# and along which
SIZES = {
    "width": "width",
    "depth": "depth",
    "batch_size": "batch size",
    "data.context": "context",
    "max_steps": "steps",
}


def series_keys(results: pd.DataFrame, x: str = "lr") -> list[str]:
    """Return the columns that tell the curves of a transfer figure apart: all swept keys but seed and x."""
    swept = [key for key in differing_columns(results) if key not in IDENTITY]
    return [key for key in ("parametrization", "optimizer", "width", "lr", *swept) if key != x]


def differing_columns(results: pd.DataFrame) -> list[str]:
    """Return the columns, but outcomes, in which runs differ; a missing value counts as one."""
    columns = [str(column) for column in results if column not in OUTCOMES]
    return [column for column in columns if results[column].nunique(dropna=False) > 1]


def curves(results: pd.DataFrame, metric: str = "val_loss", x: str = "lr") -> pd.DataFrame:
    """Mean, min and max over seeds of the metric at each x of each curve.

    An x at which a seed diverged or failed to give a finite loss has an infinite mean: it is no candidate for the best
    one. Failed runs are left out. Columns: the series keys, x, mean, min, max, seeds.
    """
    runs = results[results["status"] != "failed"]
    losses = runs[metric].where(runs["status"] == "completed").fillna(float("inf"))
    groups = losses.groupby([runs[key] for key in (*series_keys(results, x), x)], dropna=False)
    return groups.agg(mean="mean", min="min", max="max", seeds="size").reset_index()


def best(results: pd.DataFrame, metric: str = "val_loss", x: str = "lr") -> pd.DataFrame:
    """The best x and its mean loss for each curve; `at_edge` if it is the smallest or largest number tried.

    A curve on which every run diverged is left out.
    """
    table = curves(results, metric, x)
    keys = series_keys(results, x)
    tried = table.groupby(keys, dropna=False)[x]
    at_end = (table[x] == tried.transform("min")) | (table[x] == tried.transform("max"))
    table["at_edge"] = at_end & (tried.transform("nunique") > 1) & is_numeric_dtype(table[x])
    finite = table[table["mean"] < float("inf")]
    rows = finite.loc[finite.groupby(keys, dropna=False)["mean"].idxmin()].reset_index(drop=True)
    return rows[[*keys, x, "mean", "seeds", "at_edge"]].rename(columns={"mean": metric})


def swept_hyperparameter(results: pd.DataFrame) -> str:
    """The first of `HYPERPARAMETERS` that has two or more values; lr if there is none."""
    return next((x for x in HYPERPARAMETERS if x in results and results[x].nunique() > 1), "lr")


def swept_size(results: pd.DataFrame) -> str | None:
    """The first of `SIZES` that has two or more values, all numbers; None if there is none."""
    swept = (size for size in SIZES if size in results and results[size].nunique() > 1)
    return next(
        (size for size in swept if pd.to_numeric(results[size], errors="coerce").notna().all()),
        None,
    )


@dataclass(frozen=True)
class Optimum:
    """Of losses over a hyperparameter x, by the parabola in log2(x) through the best one and its neighbours.

    `curvature` is the second derivative of that, in loss per octave^2; NaN where the best has no two finite neighbours
    or x is no number but a choice, and then `x` is the best one itself. at_edge: it is the smallest or largest number
    tried.
    """

    x: float | str
    loss: float
    curvature: float
    at_edge: bool

    @classmethod
    def of(cls, x: pd.Series, loss: pd.Series) -> "Optimum":
        """x in increasing order; loss may be infinite but not everywhere."""
        y = loss.to_numpy(float)
        best = int(y.argmin())
        if not is_numeric_dtype(x):
            return cls(x.iloc[best], float(y[best]), float("nan"), False)
        u = np.log2(x.to_numpy(float))
        at_edge = len(u) > 1 and best in (0, len(u) - 1)
        at_best = cls(float(2 ** u[best]), float(y[best]), float("nan"), at_edge)
        if at_edge or len(u) < 3 or not np.isfinite(y[best - 1 : best + 2]).all():
            return at_best
        a, b, c = np.polyfit(u[best - 1 : best + 2] - u[best], y[best - 1 : best + 2], 2)
        if a <= 0:  # three equal losses
            return replace(at_best, curvature=0.0)
        return cls(
            float(2 ** (u[best] - b / (2 * a))), float(c - b**2 / (4 * a)), float(2 * a), at_edge
        )

    def regret(self, at: float | str, x: pd.Series, loss: pd.Series) -> float:
        """Loss at the value `at` over that of the optimum: along the parabola, or from one grid point to the next where
        it lies farther off than those of the parabola; NaN at a choice that was not tried."""
        y = loss.to_numpy(float)
        if isinstance(at, str) or isinstance(self.x, str):
            return float(dict(zip(x, y, strict=True)).get(at, np.nan) - self.loss)
        octaves = np.log2(at / self.x)
        u = np.log2(x.to_numpy(float))
        if self.curvature > 0 and abs(octaves) <= np.diff(u).min() * (
            1 + 1e-6
        ):  # a grid point, but for rounding
            return float(self.curvature / 2 * octaves**2)
        with np.errstate(invalid="ignore"):  # between a finite loss and an infinite one
            there = np.interp(np.log2(at), u, y)
        return float("inf") if np.isnan(there) else float(there - self.loss)


def optima(
    results: pd.DataFrame, metric: str = "val_loss", size: str = "width", x: str = "lr"
) -> pd.DataFrame:
    """The optimal x of each curve and what using that of the smallest size costs there.

    Columns: the series keys, that of x (of the mean over seeds; see `Optimum`), of numbers the same with `_low` and
    `_high` (95 % t-interval over seeds of the optima of each), loss, curvature, at_edge, regret (loss at the smallest
    size's optimal x over that at its own). Curves on which every run diverged are left out.
    """
    table = curves(results, metric, x)
    keys = series_keys(results, x)
    others = [key for key in keys if key != size]
    rows = []
    for _, series in table[
        np.isfinite(table.groupby(keys, dropna=False)["mean"].transform("min"))
    ].groupby(others, sort=False, dropna=False):
        smallest: Optimum | None = None
        for _, curve in series.groupby(size):
            optimum = Optimum.of(curve[x], curve["mean"])
            smallest = smallest or optimum
            found = asdict(optimum)
            row = curve[keys].iloc[0].to_dict() | {x: found.pop("x")}
            if is_numeric_dtype(table[x]):
                each = _by_seed(results.merge(curve[keys].head(1)), metric, x)
                low, high = interval(np.log2(np.array([seed.x for seed in each.values()], float)))
                row |= {f"{x}_low": 2**low, f"{x}_high": 2**high}
            rows.append(
                row | found | {"regret": optimum.regret(smallest.x, curve[x], curve["mean"])}
            )
    return pd.DataFrame(rows)


def transfer(
    results: pd.DataFrame,
    metric: str = "val_loss",
    size: str = "width",
    x: str = "lr",
    found: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """How well the hyperparameter x transfers along `size`, one row a series of two or more sizes.

    Columns: the series keys without the size; drift (slope of log2(optimal x) against log2(size): octaves per
    doubling), drift_low and drift_high (95 % t-interval over seeds), worst_regret (largest of `optima`), edges (sizes
    whose optimum lies at the edge of the grid: there neither it nor what follows is known), and the three metrics that
    Kalra & Barkeshli (2026) ask for, as defined here:

    - fit_error: of the scaling law, the line whose slope is the drift: RMS distance of the optima in octaves;
    - robustness: k where an error of one octave in x costs a loss proportional to size^k (the curvature at the
      optimum): below 0 larger models forgive more; NaN where fewer than two sizes have a curvature;
    - asymptotic_loss: L of the best losses L + c size^-p, and asymptotic_penalty: that over the least one among the
      parametrizations; NaN for fewer than four sizes.

    Where x is no number but a choice there is no drift, fit_error or robustness.

    Args:
        found: the `optima`, where they are known.
    """
    table = optima(results, metric, size, x) if found is None else found
    keys = [key for key in series_keys(results, x) if key != size]
    rows = []
    if table.empty:
        return table
    for key, series in table.groupby(keys, sort=False, dropna=False):
        if len(series) < 2:
            continue
        row = {
            "worst_regret": series["regret"].max(),
            "edges": ", ".join(f"{value:g}" for value in series.loc[series["at_edge"], size]),
            "asymptotic_loss": asymptote(
                series[size].to_numpy(float), series["loss"].to_numpy(float)
            ),
        }
        if is_numeric_dtype(table[x]):
            row = (
                _law(series, size, x, _drifts(results.merge(series[keys].head(1)), metric, size, x))
                | row
            )
        rows.append(dict(zip(keys, key, strict=True)) | row)
    transfers = pd.DataFrame(rows)
    if len(transfers):
        alike = [key for key in keys if key != "parametrization"]
        least = transfers.groupby(alike, dropna=False)["asymptotic_loss"].transform("min")
        transfers["asymptotic_penalty"] = transfers["asymptotic_loss"] - least
    return transfers


def _law(series: pd.DataFrame, size: str, x: str, drifts: np.ndarray) -> dict[str, Any]:
    """The columns of `transfer` that follow from the scaling law of one series of `optima`; drifts: of each seed."""
    u, v = np.log2(series[size].astype(float)), np.log2(series[x])
    line = np.polyfit(u, v, 1)
    curved = series["curvature"] > 0
    forgiving = (
        np.polyfit(u[curved], np.log2(series.loc[curved, "curvature"]), 1)[0]
        if curved.sum() > 1
        else np.nan
    )
    return {
        "drift": line[0],
        **dict(zip(("drift_low", "drift_high"), interval(drifts), strict=True)),
        "fit_error": float(np.sqrt(np.mean((np.polyval(line, u) - v) ** 2))),
        "robustness": forgiving,
    }


def asymptote(size: np.ndarray, loss: np.ndarray) -> float:
    """L of the least-squares fit of L + c size^-p, p between 1/8 and 4; NaN for fewer than four sizes."""
    if len(size) < 4:
        return float("nan")
    fits = []
    for power in np.linspace(0.125, 4, 311):
        terms = np.stack([np.ones_like(size), (size / size.min()) ** -power], axis=1)
        solution = np.linalg.lstsq(terms, loss)[0]
        fits.append((float(((terms @ solution - loss) ** 2).sum()), float(solution[0])))
    return min(fits)[1]


def as_json(
    optima: pd.DataFrame, transfer: pd.DataFrame, metric: str, size: str, x: str = "lr"
) -> dict[str, Any]:
    """The two tables as plain data (NaN and infinity as null)."""
    return {
        "metric": metric,
        "size": size,
        "x": x,
        "optima": records(optima),
        "transfer": records(transfer),
    }


def _by_seed(results: pd.DataFrame, metric: str, x: str) -> dict[Any, Optimum]:
    """The optimum of each seed of one curve, of those with a finite loss."""
    found = {}
    for seed, runs in results.groupby("seed"):
        curve = curves(runs, metric, x)
        if np.isfinite(curve["mean"]).any():
            found[seed] = Optimum.of(curve[x], curve["mean"])
    return found


def _drifts(results: pd.DataFrame, metric: str, size: str, x: str) -> np.ndarray:
    """The drift by each seed's own optima."""
    optimal = pd.DataFrame(
        {
            value: {s: o.x for s, o in _by_seed(runs, metric, x).items()}
            for value, runs in results.groupby(size)
        }
    )
    return np.array(
        [
            np.polyfit(np.log2(optimal.columns.to_numpy(float)), np.log2(row), 1)[0]
            for row in optimal.dropna().to_numpy()
        ]
    )
