"""What a search of many hyperparameters found."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.analysis.transfer import differing_columns

TOP = 0.1  # share of the settings whose values are looked at


def searched_keys(results: pd.DataFrame) -> list[str]:
    """List the columns of hyperparameters that were searched: all in which runs differ but seed."""
    return [key for key in differing_columns(results) if key != "seed"]


def ranking(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a row a setting that was trained to the end, the best first.

    Columns: `searched_keys`, the metric (mean over seeds) and seeds. A setting of which a seed
    diverged, failed or was dropped is left out.

    >>> results = pd.DataFrame({"lr": [1, 2, 3], "seed": 0, "val_loss": [3.0, 2.0, 1.0]})
    >>> ranking(results.assign(status=["completed", "completed", "dropped"]), "val_loss")
       lr  val_loss  seeds
    0   2       2.0      1
    1   1       3.0      1
    """
    keys = searched_keys(results)
    losses = results[metric].where(results["status"] == "completed", np.inf)
    settings = [results[key] for key in keys]
    groups = losses.groupby(settings, dropna=False)
    table = groups.agg(["mean", "size"]).reset_index()
    table = table.rename(columns={"mean": metric, "size": "seeds"})
    finite = table[np.isfinite(table[metric])]
    return finite.sort_values(metric, ignore_index=True)


def preferences(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Say of each searched number what the best tenth of all settings has in common.

    Columns: key, low and high (of all that were tried), best (of the best setting), top_low,
    top_mean and top_high (the quartiles and the geometric mean of the best tenth), and shift: how
    many standard deviations of what was tried that mean lies off, in octaves. Beyond 2 standard
    errors it is no chance.

    >>> results = pd.DataFrame({"lr": 2.0 ** np.arange(20), "seed": 0, "status": "completed"})
    >>> table = preferences(results.assign(val_loss=range(20)), "val_loss")
    >>> table[["key", "low", "best"]].to_dict("records")
    [{'key': 'lr', 'low': 1.0, 'best': 1.0}]
    """
    ranked = ranking(results, metric)
    if ranked.empty:
        return pd.DataFrame()
    tried = results.drop_duplicates(searched_keys(results))
    top = ranked.head(max(2, round(TOP * len(tried))))
    rows = []
    for key in numbers(results):
        of_top = np.log2(top[key].astype(float))
        of_all = np.log2(tried[key].astype(float))
        row: dict[str, Any] = {"key": key}
        row["low"] = tried[key].min()
        row["high"] = tried[key].max()
        row["best"] = ranked[key].iloc[0]
        row["top_low"] = top[key].quantile(0.25)
        row["top_mean"] = 2 ** of_top.mean()
        row["top_high"] = top[key].quantile(0.75)
        row["shift"] = (of_top.mean() - of_all.mean()) / of_all.std()
        row["standard_error"] = 1 / np.sqrt(len(top))
        rows.append(row)
    return pd.DataFrame(rows)


def numbers(results: pd.DataFrame) -> Sequence[str]:
    """List the searched columns that hold numbers above 0."""
    keys = [key for key in searched_keys(results) if is_numeric_dtype(results[key])]
    return [key for key in keys if (results[key] > 0).all()]
