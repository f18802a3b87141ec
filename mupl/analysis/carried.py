"""What a searched setting gains at sizes that were not searched, in loss and in steps.

All functions take a table of results, one row a run, with the columns seed, status, folder, a
loss, a swept learning rate, sizes, and setting: "plain" is the one without factors by module, in
which the learning rate alone was tuned. It is also the one that the others are compared with.

`carried` ends with a row for each size, setting and rate_from: "smallest size", where the learning
rate is the best one of the smallest size, or "same size". Its columns are these, the learning rate,
at_edge (whether that rate is the least or the largest tried), the loss (mean over seeds; infinite
if a run diverged) and, over the plain setting at the best rate of the same size,

- gain: how much less the loss is;
- speedup: how many times fewer steps reach the final loss, read from the losses in the course of a
  run (`steps_to_reach`). Below 1 it is the other way round: the plain setting reaches the other's
  final loss sooner;
- run_speedup: the same between whole runs of several `max_steps`, each with a schedule of its own.
  NaN where fewer than two lengths were trained, and for the shortest one;
- seeds: how many each is a mean over (of speedups the geometric one), with its 95 % t-interval over
  seeds as `_low` and `_high`. Both runs of a difference or ratio have the same seed.
"""

from typing import Any

import numpy as np
import pandas as pd

from mupl.analysis.slopes import interval
from mupl.analysis.transfer import SIZES, curves, differing_columns, swept_hyperparameter
from mupl.errors import ConfigError

PLAIN = "plain"
# Where the learning rate of a setting is from
CARRIED = "smallest size"
OWN = "same size"
STEPS = "max_steps"


def carried(results: pd.DataFrame, validation: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Compare settings at every size with the plain one at the best learning rate of that size.

    Args:
        results: see the head of this module. Where rules were swept too, such as batch_scaling,
            there are rows for each.
        validation: columns folder, steps and the metric, of the course of runs.
        metric: the loss.

    Raises:
        ConfigError: if no run has the setting plain, or all runs have one size.

    >>> runs = [("plain", 8, 2.0), ("plain", 16, 1.5), ("best", 8, 1.8), ("best", 16, 1.4)]
    >>> results = pd.DataFrame(runs, columns=["setting", "width", "val_loss"])
    >>> results = results.assign(lr=0.1, seed=0, status="completed", folder=range(4), max_steps=9)
    >>> validation = results[["folder", "val_loss"]].assign(steps=9)
    >>> table = carried(results, validation, "val_loss").query("rate_from == 'same size'")
    >>> table[["width", "setting", "gain"]].round(6)
       width setting  gain
    1      8    best   0.2
    3      8   plain   0.0
    5     16    best   0.1
    7     16   plain   0.0
    """
    x, keys = rate_and_keys(results)
    chosen = _chosen_rates(results, x, keys, metric)
    runs = _beside_plain(_runs_of(chosen, results, metric), keys, metric)
    runs["gain"] = runs[f"plain_{metric}"] - runs[metric]
    runs["speedup"] = _speedups(runs, validation, metric)
    runs["run_speedup"] = _run_speedups(runs, keys, metric)
    alike = [*keys, "setting"]
    places = [*alike, "rate_from"]
    rows = []
    for place, of_seeds in runs.groupby(places, sort=False):
        row = dict(zip(places, place, strict=True))
        row |= _mean_and_interval("gain", of_seeds["gain"])
        for name in ("speedup", "run_speedup"):
            octaves = _mean_and_interval(name, np.log2(of_seeds[name]))
            for key, value in octaves.items():
                row[key] = 2**value
        row["seeds"] = len(of_seeds)
        rows.append(row)
    return chosen.merge(pd.DataFrame(rows)).sort_values(alike, ignore_index=True)


def rate_and_keys(results: pd.DataFrame) -> tuple[str, list[str]]:
    """Return the columns that were swept: the learning rate's, and all of sizes (and rules).

    Raises:
        ConfigError: if no run has the setting plain, or all runs have one size.
    """
    if "setting" not in results or PLAIN not in set(results["setting"]):
        raise ConfigError(
            f"setting: no run has setting={PLAIN}, with which the others are compared; say "
            f"setting=best,{PLAIN}"
        )
    plain = results[results["setting"] == PLAIN]
    x = swept_hyperparameter(plain)
    keys = [key for key in differing_columns(plain) if key not in ("seed", x)]
    if not any(key in SIZES for key in keys):
        raise ConfigError(
            "setting: all runs have one size; say also those that the setting is carried to, such "
            "as width=64,256"
        )
    return x, keys


def steps_to_reach(steps: pd.Series, losses: pd.Series, target: float) -> float:
    """Return after how many steps a loss is first as low as `target`; NaN if that is not known.

    Between two points the loss is a line in the logarithm of steps. It is not known of a curve that
    begins below the target or never comes down to it.

    >>> round(steps_to_reach(pd.Series([100, 400]), pd.Series([3.0, 2.0]), 2.5), 6)
    200.0
    """
    low = np.flatnonzero(losses.to_numpy() <= target)
    if len(low) == 0 or (low[0] == 0 and losses.iloc[0] < target):
        return float("nan")
    if low[0] == 0:
        return float(steps.iloc[0])
    ends = slice(low[0] - 1, low[0] + 1)
    start, end = np.log2(steps.iloc[ends].to_numpy(float))
    before, after = losses.iloc[ends]
    share = (before - target) / (before - after)
    octave = start + share * (end - start)
    return float(2**octave)


def _chosen_rates(results: pd.DataFrame, x: str, keys: list[str], metric: str) -> pd.DataFrame:
    """Return the learning rate of each size, setting and rate_from, with the loss there."""
    alike = [*keys, "setting"]
    columns = [*alike, x, "mean"]
    losses = curves(results, metric, x, alike)[columns]
    finite = losses[np.isfinite(losses["mean"])]
    best = finite.groupby(alike)["mean"].idxmin()
    own = finite.loc[best]
    sizes = [key for key in keys if key in SIZES]
    rules = [key for key in alike if key not in SIZES]
    is_smallest = (own[sizes] == results[sizes].min()).all(axis=1)
    at_smallest = own.loc[is_smallest, [*rules, x]]
    from_smallest = own[alike].merge(at_smallest).merge(losses)
    both = [from_smallest.assign(rate_from=CARRIED), own.assign(rate_from=OWN)]
    table = pd.concat(both, ignore_index=True)
    table = table.rename(columns={"mean": metric})
    edges = [results[x].min(), results[x].max()]
    table["at_edge"] = table[x].isin(edges)
    return table[[*alike, "rate_from", x, "at_edge", metric]]


def _runs_of(chosen: pd.DataFrame, results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the runs of all seeds at the chosen learning rates, a row each."""
    places = chosen.drop(columns=["at_edge", metric])
    same = list(places.columns.drop("rate_from"))
    columns = dict.fromkeys([*same, STEPS, "seed", "folder", metric])  # STEPS may be among same
    return places.merge(results[list(columns)], on=same)


def _beside_plain(runs: pd.DataFrame, keys: list[str], metric: str) -> pd.DataFrame:
    """Give each run the plain one of its size, rules and seed, in columns plain_...."""
    is_reference = (runs["setting"] == PLAIN) & (runs["rate_from"] == OWN)
    same = [*keys, "seed"]
    reference = runs.loc[is_reference, [*same, "folder", metric]]
    names = {"folder": "plain_folder", metric: f"plain_{metric}"}
    return runs.merge(reference.rename(columns=names), on=same)


def _speedups(runs: pd.DataFrame, validation: pd.DataFrame, metric: str) -> list[float]:
    """Compute the speedup of each run, from losses in its course or in the plain run's."""
    courses = dict(list(validation.dropna(subset=[metric]).groupby("folder")))
    nothing = validation.head(0)
    found = []
    for _, run in runs.iterrows():
        mine = courses.get(run["folder"], nothing)
        others = courses.get(run["plain_folder"], nothing)
        found.append(_ratio(run, metric, mine, others, run[STEPS]))
    return found


def _run_speedups(runs: pd.DataFrame, keys: list[str], metric: str) -> pd.Series:
    """Compute the speedup of each run over others of as many steps, from runs of other lengths."""
    found: dict[Any, float] = {}
    same = [key for key in (*keys, "setting", "rate_from", "seed") if key != STEPS]
    for _, lengths in runs.sort_values(STEPS).groupby(same):
        steps = lengths[STEPS]
        mine = pd.DataFrame({"steps": steps, metric: lengths[metric]})
        others = pd.DataFrame({"steps": steps, metric: lengths[f"plain_{metric}"]})
        for index, run in lengths.iloc[1:].iterrows():
            found[index] = _ratio(run, metric, mine, others, run[STEPS])
    return pd.Series(found, dtype=float).reindex(runs.index)


def _ratio(
    run: pd.Series, metric: str, mine: pd.DataFrame, others: pd.DataFrame, steps: int
) -> float:
    """Return how many times fewer steps a curve needs than another, to the worse one's last loss.

    Args:
        run: with the last losses of both.
        mine, others: the curves, of columns steps and the metric.
        steps: of both.
    """
    if run[metric] <= run[f"plain_{metric}"]:
        return steps / steps_to_reach(mine["steps"], mine[metric], run[f"plain_{metric}"])
    return steps_to_reach(others["steps"], others[metric], run[metric]) / steps


def _mean_and_interval(name: str, values: pd.Series) -> dict[str, float]:
    array = values.to_numpy(float)
    low, high = interval(array)
    return {name: float(array.mean()), f"{name}_low": low, f"{name}_high": high}
