"""Does the large run do what its proxies did: its loss, and the sizes of its tensors' changes?"""

from typing import Any

import numpy as np
import pandas as pd

from mupl.analysis.bootstrap import NORMAL, Interval
from mupl.analysis.coordinates import over_blocks, records

SAME = 0.5  # octaves off the line through the proxies that still count as the same
KEYS = ["kind", "name", "t"]


def statistics(rows: pd.DataFrame) -> pd.DataFrame:
    """Return outputs and relative updates of a recorder's rows, as means over blocks and seeds.

    A relative update is RMS(W_(t+1) - W_t) / RMS(W_t). Columns: width, kind (output or relative
    update), name, t, value. What is 0, such as a readout that starts there, is left out.

    >>> rows = pd.DataFrame({"kind": ["param", "update"], "value": [2.0, 0.1]})
    >>> rows = rows.assign(width=8, seed=0, t=0, name="a.weight", statistic="rms")
    >>> statistics(rows)[["kind", "name", "value"]].to_dict("records")
    [{'kind': 'relative update', 'name': 'a.weight', 'value': 0.05}]
    """
    tensors = ["width", "seed", "t", "name"]
    values = rows.pivot_table("value", tensors, "kind", sort=False)
    found = []
    if "output" in values:
        outputs = values["output"].dropna().rename("value")
        found.append(outputs.reset_index().assign(kind="output"))
    if "param" in values and "update" in values:
        ratio = values["update"] / values["param"]
        relative = ratio.rename("value").dropna()
        found.append(relative.reset_index().assign(kind="relative update"))
    table = over_blocks(pd.concat(found))
    is_known = (table["value"] > 0) & np.isfinite(table["value"])
    table = table[is_known]
    means = table.groupby(["width", *KEYS], sort=False)["value"].mean()
    return means.reset_index()


def compare(proxies: pd.DataFrame, run: pd.DataFrame, width: float) -> pd.DataFrame:
    """Compare a run's statistics with what the proxies' say of its width.

    Through the logarithms of each statistic against width goes a line, at whose end the run is
    looked for. Columns: kind, name, t, expected, measured, octaves (by which it is off), same
    (within `SAME`).

    Args:
        proxies, run: what `statistics` returns.
        width: of the run.

    >>> rows = pd.DataFrame({"width": [8, 16, 32], "value": [4.0, 2.0, 1.0], "kind": "output"})
    >>> rows = rows.assign(name="readout", t=0)
    >>> compare(rows[:2], rows[2:], 32)[["measured", "same"]].to_dict("records")
    [{'measured': 1.0, 'same': True}]
    """
    compared: list[dict[str, Any]] = []
    measured = dict(iter(run.set_index(KEYS)["value"].items()))
    for key, rows in proxies.groupby(KEYS, sort=False):
        if key not in measured:
            continue
        sizes = np.log2(rows["width"].to_numpy(float))
        values = np.log2(rows["value"].to_numpy())
        slope = 0.0
        if len(rows) > 1:
            slope, _ = np.polyfit(sizes, values, 1)
        distance = np.log2(width) - sizes.mean()
        expected = values.mean() + slope * distance
        octaves = float(np.log2(measured[key]) - expected)
        row = dict(zip(KEYS, key, strict=True))
        row["expected"] = float(2**expected)
        row["measured"] = float(measured[key])
        row["octaves"] = octaves
        row["same"] = abs(octaves) <= SAME
        compared.append(row)
    return pd.DataFrame(compared)


def loss_sentence(predicted: Interval | None, measured: float, metric: str) -> str:
    """Say whether a loss was predicted.

    >>> loss_sentence(Interval(2.0, 1.9, 2.1), 2.05, "val_loss")
    'val_loss 2.05, predicted 2 (95 % 1.9 to 2.1): inside the interval'
    """
    if predicted is None or np.isnan(predicted.value):
        return f"{metric} {measured:.4g}; the ladder predicted none"
    said = f"{metric} {measured:.4g}, predicted {predicted.value:.4g}"
    if np.isnan(predicted.low):
        return f"{said}, with an interval that is not known"
    where = "inside"
    if measured < predicted.low:
        where = "better than"
    elif not measured <= predicted.high:
        where = "worse than"
    return f"{said} (95 % {predicted.low:.4g} to {predicted.high:.4g}): {where} the interval"


def regret_sentence(
    runs: pd.DataFrame, metric: str, regret: float, scatter: float
) -> tuple[str, bool | None]:
    """Say whether the recommended run is the best of several, or loses what was predicted.

    It may lose the predicted regret, and by chance 1.96 sqrt(2) times the scatter of one run.

    Args:
        runs: a row a run: run (its name), recommended (whether it has the recommended values), and
            the metric, infinite where it diverged. Recommended runs count by their mean.
        metric: the loss.
        regret: the predicted one; NaN if it is not known.
        scatter: of a loss over seeds, as a share of the loss; NaN if it is not known.

    Returns:
        The sentence, and whether the loss is within what was predicted; None if nothing was.

    >>> runs = pd.DataFrame({"run": ["lr=1", "lr=2"], "recommended": [True, False]})
    >>> text, within = regret_sentence(runs.assign(val_loss=[2.0, 2.1]), "val_loss", 0.1, 0.01)
    >>> text, within
    ('the recommended run is the best of 2: val_loss 2', True)
    """
    recommended = float(runs.loc[runs["recommended"], metric].mean())
    best = runs.iloc[int(runs[metric].to_numpy(float).argmin())]
    lost = recommended - float(best[metric])
    if lost <= 0 or best["recommended"]:
        text = f"the recommended run is the best of {len(runs)}: {metric} {recommended:.4g}"
        return text, True
    said = f"the recommended run loses {lost:.3g} to {best['run']}, the best of {len(runs)}"
    chance = NORMAL * np.sqrt(2) * scatter * float(best[metric])
    if np.isnan(regret) or np.isnan(chance):
        return f"{said}; the ladder predicted no regret", None
    within = bool(lost <= regret + chance)
    how = "within" if within else "more than"
    return f"{said}: {how} the predicted {regret:.3g} and the {chance:.3g} of chance", within


def coordinates_sentence(compared: pd.DataFrame) -> str:
    """Say how many tensors do as in the proxies, and which one is farthest off.

    >>> table = pd.DataFrame({"kind": ["output"], "name": ["readout"], "octaves": [2.0], "t": [4]})
    >>> coordinates_sentence(table.assign(same=False)).partition("; ")[2]
    'farthest off: output readout, t = 4, by a factor 4.00'
    """
    if compared.empty:
        return "no coordinates were recorded, so they are not compared"
    same = int(compared["same"].sum())
    said = f"{same} of {len(compared)} outputs and relative updates as in the proxies"
    if same == len(compared):
        return said
    worst = compared.sort_values("octaves", key=abs).iloc[-1]
    factor = 2 ** float(worst["octaves"])
    where = f"{worst['kind']} {worst['name']}, t = {worst['t']}"
    return f"{said}; farthest off: {where}, by a factor {factor:.2f}"


def plain(compared: pd.DataFrame) -> dict[str, Any]:
    """Turn a comparison into plain data: the counts, and every row."""
    if compared.empty:
        return {"compared": 0, "same": 0, "rows": []}
    same = int(compared["same"].sum())
    return {"compared": len(compared), "same": same, "rows": records(compared)}
