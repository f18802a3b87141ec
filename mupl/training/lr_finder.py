"""A learning-rate finder that keeps the ratios between param groups."""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning import LightningDataModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mupl.errors import ConfigError
from mupl.training.callbacks import LossRecord
from mupl.training.module import TrainingModule


@dataclass(frozen=True)
class RangeTest:
    """A schedule of one factor an update, on every group's lr."""

    factors: Sequence[float]

    def scheduler(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda k: self.factors[min(k, len(self.factors) - 1)])


@dataclass(frozen=True)
class LRSearch:
    """Training losses under a growing lr; a loss is that before the update with its lr."""

    lrs: list[float]
    losses: list[float]

    def suggestion(self, smoothing: float = 0.9) -> float:
        """The lr at which the exponential moving average of the loss falls most steeply against log lr.

        Raises:
            ConfigError: if it never falls.
        """
        average, smooth = 0.0, []
        for k, loss in enumerate(self.losses):
            average = smoothing * average + (1 - smoothing) * loss
            smooth.append(
                average / (1 - smoothing ** (k + 1))
            )  # without the bias towards the 0 of the start
        falls = [before - after for before, after in itertools.pairwise(smooth)]
        if max(falls, default=0) <= 0:
            raise ConfigError(
                f"lr: the loss does not fall at any lr between {self.lrs[0]:g} and {self.lrs[-1]:g}"
            )
        return self.lrs[falls.index(max(falls))]


def find_lr(
    module: TrainingModule,
    data: LightningDataModule,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    stop: float = 4.0,
    **trainer: Any,
) -> LRSearch:
    """Train a copy of the module while its lr grows from `low` to `high` by equal factors (Smith 2017).

    The lr of every param group grows in proportion, so what is found is the `lr` to give to such a module.

    Args:
        stop: losses from the first above `stop` times the lowest so far, or not finite, are left out.
        trainer: further arguments of `lightning.Trainer`.

    Raises:
        ConfigError: unless 0 < low < high and steps > 1.
    """
    if not (0 < low < high < math.inf and steps > 1):
        raise ConfigError(
            f"find_lr: low={low}, high={high}, steps={steps}: must be 0 < low < high and steps > 1"
        )
    lrs = [low * (high / low) ** (k / (steps - 1)) for k in range(steps)]
    trained, record = copy.deepcopy(module), LossRecord()
    trained.schedule = RangeTest([lr / module.lr for lr in lrs])  # type: ignore[assignment]  # used alike
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    options: dict[str, Any] = (
        quiet
        | {"max_steps": steps, "max_epochs": -1, "limit_val_batches": 0, "callbacks": [record]}
        | trainer
    )
    Trainer(**options).fit(trained, datamodule=data)
    losses: list[float] = []
    for loss in record.losses[: record.steps].tolist():
        if not loss <= stop * min(losses, default=loss):
            break
        losses.append(loss)
    return LRSearch(lrs[: len(losses)], losses)
