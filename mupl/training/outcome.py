"""What became of a run."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

VALIDATION = ("val_loss", "val_accuracy")


def outcome(
    losses: Tensor, diverged: bool, validation: Mapping[str, float], fraction: float = 0.1
) -> dict[str, Any]:
    """The outcome columns of a run's row of results: status, steps, train_loss, val_loss, val_accuracy.

    Args:
        losses: (steps,) of the steps made, all finite.
        diverged: whether the next one was not.
        validation: the last val_loss and val_accuracy, if there were any.
        fraction: of the steps, the last, over which the training loss is averaged: one mini-batch alone is too noisy
            to compare runs by.
    """
    completed = not diverged and math.isfinite(validation.get("val_loss", 0.0))
    train_loss = (
        losses[-max(1, round(fraction * len(losses))) :].mean() if not diverged else math.nan
    )
    values = {
        name: validation.get(name, math.nan) if completed else math.nan for name in VALIDATION
    }
    status = "completed" if completed else "diverged"
    return {"status": status, "steps": len(losses), "train_loss": float(train_loss), **values}
