"""Learning-rate transfer, from a sweep's table of results to numbers."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from mupl.analysis.columns import IDENTITY, OUTCOMES
from mupl.analysis.coordinates import interval

SIZES = ("width", "depth", "batch_size", "data.context", "max_steps")  # along which transfer is asked for


def series_keys(results: pd.DataFrame) -> list[str]:
    """The columns that tell the curves of a transfer figure apart: all swept keys but lr and seed."""
    return ["parametrization", "optimizer", "width", *(str(c) for c in results if c not in (*IDENTITY, *OUTCOMES))]


def curves(results: pd.DataFrame, metric: str = "val_loss") -> pd.DataFrame:
    """Mean, min and max over seeds of the metric at each lr of each curve.

    A learning rate at which a seed diverged or failed to give a finite loss has an infinite mean: it is no candidate
    for the best one. Failed runs are left out. Columns: the series keys, lr, mean, min, max, seeds.
    """
    runs = results[results["status"] != "failed"]
    losses = runs[metric].where(runs["status"] == "completed").fillna(float("inf"))
    groups = runs.assign(_loss=losses).groupby([*series_keys(results), "lr"], sort=True, dropna=False)
    table = groups["_loss"].agg(mean="mean", min="min", max="max", seeds="size")
    return table.reset_index()


def best(results: pd.DataFrame, metric: str = "val_loss") -> pd.DataFrame:
    """The best lr and its mean loss for each curve; `at_edge` if it is the smallest or largest lr tried.

    A curve on which every run diverged is left out.
    """
    table = curves(results, metric)
    keys = series_keys(results)
    finite = table[table["mean"] < float("inf")]
    rows = finite.loc[finite.groupby(keys, dropna=False)["mean"].idxmin()].reset_index(drop=True)
    lrs = table.groupby(keys, dropna=False)["lr"].agg(["min", "max", "nunique"]).reset_index()
    ends = rows[keys].merge(lrs, on=keys)
    rows["at_edge"] = ((rows["lr"] == ends["min"]) | (rows["lr"] == ends["max"])) & (ends["nunique"] > 1)
    return rows[[*keys, "lr", "mean", "seeds", "at_edge"]].rename(columns={"mean": metric})


def swept_size(results: pd.DataFrame) -> str | None:
    """The first of `SIZES` that has two or more values, all numbers; None if there is none."""
    for size in SIZES:
        if (
            size in results
            and pd.to_numeric(results[size], errors="coerce").notna().all()
            and results[size].nunique() > 1
        ):
            return size
    return None


@dataclass(frozen=True)
class Optimum:
    """Of losses over learning rates, by the parabola in log2(lr) through the best one and its neighbours.

    `curvature` is the second derivative of that, in loss per octave^2; NaN where the best has no two finite neighbours,
    and then `lr` is the best one itself. at_edge: it is the smallest or largest learning rate tried.
    """

    lr: float
    loss: float
    curvature: float
    at_edge: bool

    @classmethod
    def of(cls, lr: pd.Series, loss: pd.Series) -> "Optimum":
        """lr in increasing order; loss may be infinite but not everywhere."""
        x, y = np.log2(lr.to_numpy(float)), loss.to_numpy(float)
        best = int(y.argmin())
        at_edge = len(x) > 1 and best in (0, len(x) - 1)
        if at_edge or len(x) < 3 or not np.isfinite(y[best - 1 : best + 2]).all():
            return cls(float(2 ** x[best]), float(y[best]), float("nan"), at_edge)
        a, b, c = np.polyfit(x[best - 1 : best + 2] - x[best], y[best - 1 : best + 2], 2)
        if a <= 0:  # three equal losses
            return cls(float(2 ** x[best]), float(y[best]), 0.0, at_edge)
        return cls(float(2 ** (x[best] - b / (2 * a))), float(c - b**2 / (4 * a)), float(2 * a), at_edge)

    def regret(self, at: float, lr: pd.Series, loss: pd.Series) -> float:
        """Loss at the learning rate `at` over that of the optimum: along the parabola, or from one grid point to the
        next where it lies farther off than those of the parabola."""
        octaves = np.log2(at / self.lr)
        x, y = np.log2(lr.to_numpy(float)), loss.to_numpy(float)
        if self.curvature > 0 and abs(octaves) <= np.diff(x).min():
            return float(self.curvature / 2 * octaves**2)
        with np.errstate(invalid="ignore"):  # between a finite loss and an infinite one
            there = np.interp(np.log2(at), x, y)
        return float("inf") if np.isnan(there) else float(there - self.loss)


def optima(results: pd.DataFrame, metric: str = "val_loss", size: str = "width") -> pd.DataFrame:
    """The optimal lr of each curve and what using that of the smallest size costs there.

    Columns: the series keys, lr (of the mean over seeds; see `Optimum`), lr_low and lr_high (95 % t-interval over seeds
    of the optima of each), loss, curvature, at_edge, regret (loss at the smallest size's optimal lr over that at its
    own). Curves on which every run diverged are left out.
    """
    table = curves(results, metric)
    keys = series_keys(results)
    others = [key for key in keys if key != size]
    rows = []
    for _, series in table[np.isfinite(table.groupby(keys, dropna=False)["mean"].transform("min"))].groupby(
        others, sort=False, dropna=False
    ):
        smallest: Optimum | None = None
        for _, curve in series.groupby(size):
            optimum = Optimum.of(curve["lr"], curve["mean"])
            smallest = smallest or optimum
            each = _by_seed(results.merge(curve[keys].head(1)), metric)
            low, high = interval(np.log2([seed.lr for seed in each.values()]))
            seeds = {"lr_low": 2**low, "lr_high": 2**high}
            regret = optimum.regret(smallest.lr, curve["lr"], curve["mean"])
            found = asdict(optimum)
            rows.append(curve[keys].iloc[0].to_dict() | {"lr": found.pop("lr")} | seeds | found | {"regret": regret})
    return pd.DataFrame(rows)


def transfer(
    results: pd.DataFrame, metric: str = "val_loss", size: str = "width", found: pd.DataFrame | None = None
) -> pd.DataFrame:
    """How well the learning rate transfers along `size`, one row a series of two or more sizes.

    Columns: the series keys without the size; drift (slope of log2(optimal lr) against log2(size): octaves per
    doubling), drift_low and drift_high (95 % t-interval over seeds), worst_regret (largest of `optima`), edges (sizes
    whose optimum lies at the edge of the grid: there neither it nor what follows is known), and the three metrics that
    Kalra & Barkeshli (2026) ask for, as defined here:

    - fit_error: of the scaling law, the line whose slope is the drift: RMS distance of the optima in octaves;
    - robustness: k where an error of one octave in lr costs a loss proportional to size^k (the curvature at the
      optimum): below 0 larger models forgive more; NaN where fewer than two sizes have a curvature;
    - asymptotic_loss: L of the best losses L + c size^-p, and asymptotic_penalty: that over the least one among the
      parametrizations; NaN for fewer than four sizes.

    Args:
        found: the `optima`, where they are known.
    """
    table = optima(results, metric, size) if found is None else found
    keys = [key for key in series_keys(results) if key != size]
    rows = []
    if table.empty:
        return table
    for key, series in table.groupby(keys, sort=False, dropna=False):
        if len(series) < 2:
            continue
        x, y = np.log2(series[size].astype(float)), np.log2(series["lr"])
        line = np.polyfit(x, y, 1)
        slopes = _drifts(results.merge(series[keys].head(1)), metric, size)
        curved = series["curvature"] > 0
        row = {
            "drift": line[0],
            **dict(zip(("drift_low", "drift_high"), interval(slopes), strict=True)),
            "worst_regret": series["regret"].max(),
            "edges": ", ".join(f"{value:g}" for value in series.loc[series["at_edge"], size]),
            "fit_error": float(np.sqrt(np.mean((np.polyval(line, x) - y) ** 2))),
            "robustness": np.polyfit(x[curved], np.log2(series.loc[curved, "curvature"]), 1)[0]
            if curved.sum() > 1
            else float("nan"),
            "asymptotic_loss": asymptote(series[size].to_numpy(float), series["loss"].to_numpy(float)),
        }
        rows.append(dict(zip(keys, key, strict=True)) | row)
    transfers = pd.DataFrame(rows)
    if len(transfers):
        alike = [key for key in keys if key != "parametrization"]
        least = transfers.groupby(alike, dropna=False)["asymptotic_loss"].transform("min")
        transfers["asymptotic_penalty"] = transfers["asymptotic_loss"] - least
    return transfers


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


def as_json(optima: pd.DataFrame, transfer: pd.DataFrame, metric: str, size: str) -> dict[str, Any]:
    """The two tables as plain data (NaN and infinity as null)."""
    tables = {"optima": optima, "transfer": transfer}
    finite = {key: table.replace([np.inf, -np.inf], np.nan).astype(object) for key, table in tables.items()}
    rows = {key: table.where(table.notna(), None).to_dict("records") for key, table in finite.items()}
    return {"metric": metric, "size": size} | rows


def _by_seed(results: pd.DataFrame, metric: str) -> dict[Any, Optimum]:
    """The optimum of each seed of one curve, of those with a finite loss."""
    found = {}
    for seed, runs in results.groupby("seed"):
        curve = curves(runs, metric)
        if np.isfinite(curve["mean"]).any():
            found[seed] = Optimum.of(curve["lr"], curve["mean"])
    return found


def _drifts(results: pd.DataFrame, metric: str, size: str) -> np.ndarray:
    """The drift by each seed's own optima."""
    lrs = pd.DataFrame(
        {value: {s: o.lr for s, o in _by_seed(runs, metric).items()} for value, runs in results.groupby(size)}
    )
    return np.array(
        [np.polyfit(np.log2(lrs.columns.to_numpy(float)), np.log2(row), 1)[0] for row in lrs.dropna().to_numpy()]
    )
