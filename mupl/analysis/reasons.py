"""What a failure of a coordinate check means, in a sentence."""

from collections.abc import Mapping
from typing import Any

SUBJECTS = {
    "update": "the update of",
    "gradient_update": "the update of",
    "decay": "the weight decay of",
    "output": "the output of",
    "logits": "the",
    "attention_logits": "attention logits of",
    "effective": "the effective part (W_t - W_0) x_t of",
    "propagating": "the propagating part W_0 (x_t - x_0) of",
}
NORMS = {
    "frobenius": "the Frobenius norm of",
    "spectral": "the spectral norm of",
    "rms_to_rms": "the RMS->RMS norm of",
}
# Kind -> what to do about a slope that is too large or too small
ADVICE = {
    "update": "its learning rate is too {size} by {by}: check its role (roles=...) and how its "
    "optimizer's updates scale (update_kind=...)",
    "param": "its values are too {size} by {by}: check its role (roles=...), its init (init=...) "
    "and that it has its multiplier",
    "decay": "its weight decay is too {size} by {by}: say weight_decay_mode=decoupled",
    "output": "look first at updates and weights that fail; where none does, a sum over the width "
    "is too {size} by {by}: a multiplier is missing, or there is one too many",
    "effective": "its updates act on its inputs too {strongly} by {by}: check how its optimizer's "
    "updates scale (update_kind=...) and its role (roles=...)",
    "propagating": "what earlier layers learn reaches it too {strongly} by {by}: look first at "
    "effective parts that fail; where none does, check its init (init=...) and its multiplier",
    "attention_logits": "divide them by d_head, as mupl.nn.multipliers.Multiplier('attention') "
    "does, or keep d_head and let the number of heads grow; else look at updates that fail",
}
ADVICE["gradient_update"] = ADVICE["update"]
ADVICE["logits"] = ADVICE["output"]


def wrong_slope(row: Mapping[str, Any], along: str) -> str:
    """Say what a slope that is wrong means, and what to try.

    Args:
        row: kind, name, slope, low, high, and statistic if it is a norm.
        along: the size that slopes are against: "width" or "depth".

    >>> row = {"kind": "update", "name": "up.weight", "slope": 0.0, "low": -1.0, "high": -1.0}
    >>> wrong_slope(row, "width")[:86]
    'the update of up.weight goes as width^0.00 and must as width^-1: its learning rate is '
    """
    low = row["low"]
    high = row["high"]
    slope = round(row["slope"], 2) + 0.0  # no -0.00
    must = f"{along}^{low:g}" if low == high else f"{along}^{low:g} to {along}^{high:g}"
    off = max(slope - high, low - slope)
    advice = ADVICE[row["kind"]].format(
        size="large" if slope > high else "small",
        strongly="strongly" if slope > high else "weakly",
        by=f"{along}^{off:.2f}",
    )
    return f"{_subject(row)} goes as {along}^{slope:.2f} and must as {must}: {advice}"


def not_zero(row: Mapping[str, Any]) -> str:
    """Say that something moves which must not, by its kind, name and t.

    >>> not_zero({"kind": "update", "name": "up.weight", "t": 0})
    'the update of up.weight must be 0 at step 0, as nothing reaches it yet, and is not'
    """
    return f"{_subject(row)} must be 0 at step {row['t']}, as nothing reaches it yet, and is not"


def not_finite(row: Mapping[str, Any]) -> str:
    """Say that the training diverged, by kind and name of what is not finite.

    >>> not_finite({"kind": "param", "name": "up.weight"})
    'up.weight is infinite or NaN: the training diverges, so take a smaller lr'
    """
    return f"{_subject(row)} is infinite or NaN: the training diverges, so take a smaller lr"


def _subject(row: Mapping[str, Any]) -> str:
    """Name what was measured, such as "the update of blocks.0.up.weight"."""
    words = [NORMS.get(row.get("statistic", ""), ""), SUBJECTS.get(row["kind"], ""), row["name"]]
    return " ".join(word for word in words if word)
