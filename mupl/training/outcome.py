"""What became of a run."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

VALIDATION = ("val_loss", "val_accuracy")


def outcome(
    losses: Tensor,
    diverged: bool,
    validation: Mapping[str, float],
    readout_norm: float | None = None,
    fraction: float = 0.1,
) -> dict[str, Any]:
    """Return status, steps, train_loss, val_loss, val_accuracy and readout_norm for a run's row.

    Args:
        losses: (steps,) the losses of the steps made, all finite.
        diverged: whether the next loss was not finite.
        validation: the last val_loss and val_accuracy, if there were any.
        readout_norm: of the weights at the end (`mupl.stats.readout_norm`); None if it is not
            known. A row has it only of a run that completed.
        fraction: the training loss is the mean over this share of the steps, the last ones: one
            mini-batch alone is too noisy to compare runs by.
    """
    completed = not diverged and math.isfinite(validation.get("val_loss", 0.0))
    train_loss = math.nan
    if not diverged:
        last = max(1, round(fraction * len(losses)))
        train_loss = float(losses[-last:].mean())
    row: dict[str, Any] = {
        "status": "completed" if completed else "diverged",
        "steps": len(losses),
        "train_loss": train_loss,
    }
    for name in VALIDATION:
        row[name] = validation.get(name, math.nan) if completed else math.nan
    if completed and readout_norm is not None:
        row["readout_norm"] = readout_norm
    return row


def summary(row: Mapping[str, Any], folder: object) -> str:
    """Say in one line how a run ended: "completed: train_loss 0.2131, 12.3 s, outputs/..."."""
    end = row["status"]
    if end == "diverged":
        end = f"diverged at step {row['steps']}"
    parts = []
    for name in ("train_loss", *VALIDATION):
        if math.isfinite(row[name]):
            parts.append(f"{name} {row[name]:.4g}")
    parts += [f"{row['seconds']:.1f} s", str(folder)]
    return f"{end}: {', '.join(parts)}"
