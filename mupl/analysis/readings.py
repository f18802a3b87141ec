"""What a table of transfer says, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mupl.analysis.columns import COLUMNS
from mupl.analysis.readout_norms import norm_reading
from mupl.analysis.transfer import (
    POWERS,
    SIZES,
    LossLaw,
    differing_keys,
    hyperparameter_name,
    labels,
)

ERRORS = {"drift": "over seeds", "scatter": "by the scatter over sizes"}


def glossary(size: str, x: str) -> list[str]:
    """Explain the columns that decide, and say what to do next.

    >>> glossary("width", "lr")[1]
    'worst_regret: the largest loss that the best learning rate of the smallest width costs at a \
larger one'
    """
    deciding = ("drift", "worst_regret")
    return [*(f"{key}: {COLUMNS[key].means(x, size)}" for key in deciding), advice(size)]


def advice(size: str) -> str:
    """Say what to do next.

    >>> advice("width").partition(";")[0]
    'regret near 0: tune at the smallest width and use that at all'
    """
    along = SIZES.get(size, size)
    return (
        f"regret near 0: tune at the smallest {along} and use that at all; else tune at each, or "
        "scale by another parametrization"
    )


def readings(
    optima: pd.DataFrame, transfer: pd.DataFrame, keys: Sequence[str], size: str, x: str
) -> list[str]:
    """Say of each series how x transfers; of one with an optimum at the edge, that it is not known.

    Args:
        optima, transfer: what the functions of those names return.
        keys: the columns that tell series apart.
        size, x: the columns of the size and the hyperparameter.
    """
    names = labels(transfer[differing_keys(transfer, keys)])
    series = [group for _, group in optima.groupby([*keys], sort=False, dropna=False)]
    series = [group for group in series if len(group) > 1]
    said = []
    for name, row, group in zip(names, transfer.to_dict("records"), series, strict=True):
        if row["edges"]:
            said.append(
                f"warning: {name}: the optimum lies at the edge of the grid at {size} "
                f"{row['edges']}: neither it nor drift and regret are known; try values beyond"
            )
            continue
        parts = [_drift(row, size, x)] if "drift" in row else []
        parts.append(_regret(row, group, size))
        parts.append(_law(group, size))
        parts.append(norm_reading(row, hyperparameter_name(x)))
        sentences = [part for part in parts if part]
        said.append("\n  ".join([f"{name}: {sentences[0]}", *sentences[1:]]))
    return said


def _drift(row: Mapping[Any, Any], size: str, x: str) -> str:
    """Say how the optimum moves, and how well that is known.

    Of the two intervals the one of more degrees of freedom decides: seeds - 1 or sizes - 2.
    """
    drift = round(row["drift"], 2) + 0.0  # no -0.00
    amount = f"{abs(drift):.2f} octaves a doubling of {SIZES.get(size, size)}"
    factor = f"a factor {2**drift:.2f}"
    intervals = []
    for kind, free in (("drift", row["drift_seeds"] - 1), ("scatter", row["sizes"] - 2)):
        if free > 0:
            intervals.append((-free, kind, row[f"{kind}_low"], row[f"{kind}_high"]))
    name = f"the best {hyperparameter_name(x)}"
    direction = "rises" if drift > 0 else "falls"
    if not intervals:
        return f"{name} {direction} by {amount} ({factor}), with an error that is not known."
    _, kind, low, high = min(intervals)
    interval = f"95 % {low:.2f} to {high:.2f} {ERRORS[kind]}"
    if drift == 0 or low <= 0 <= high:  # a drift that is rounding errors excludes 0
        return f"no certain drift of {name}: {drift:.2f} octaves a doubling, {interval}."
    return f"{name} {direction} by {amount} ({factor}; {interval})."


def _regret(row: Mapping[Any, Any], series: pd.DataFrame, size: str) -> str:
    """Say what the smallest size's optimum costs, also as a share of what a doubling gains."""
    sizes = series[size].to_numpy(float)
    losses = series["loss"].to_numpy(float)
    said = f"The best of {size} {sizes[0]:g} costs at most {row['worst_regret']:.2g} at larger ones"
    gain = (losses[-2] - losses[-1]) / np.log2(sizes[-1] / sizes[-2])
    if gain > 0:
        said += f", {row['worst_regret'] / gain:.2g} times what the last doubling gained"
    return f"{said}."


def _law(series: pd.DataFrame, size: str) -> str:
    """Give the law of the best losses, unless they do not follow one.

    They fall to a limit below all of them, by a power that is none of the outermost ones tried.
    """
    sizes = series[size].to_numpy(float)
    losses = series["loss"].to_numpy(float)
    law = LossLaw.of(sizes, losses)
    follows = law.c > 0 and law.limit < losses.min() and POWERS[0] < law.power < POWERS[-1]
    if not follows:
        return ""
    fall = f"{law.c:.3g} ({size} / {sizes[0]:g})^-{law.power:.2g}"
    return f"The best loss falls as {law.limit:.4g} + {fall}."
