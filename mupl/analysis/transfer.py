"""Learning-rate transfer, from a sweep's table of results to numbers."""

import pandas as pd

from mupl.analysis.columns import IDENTITY, OUTCOMES


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
