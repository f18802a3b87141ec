"""A learning-rate finder that keeps the ratios between param groups."""

import copy
import itertools
import math
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
    """A schedule under which the global lr grows from `low` to `high` by equal factors, each group's in proportion."""

    lr: float
    low: float
    high: float

    def scheduler(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        growth = (self.high / self.low) ** (1 / (max_steps - 1))
        return LambdaLR(optimizer, lambda k: self.low / self.lr * growth**k)


@dataclass(frozen=True)
class LRSearch:
    """Training loss under the growing lr; `lrs` are global ones, `losses` those before the update with that lr."""

    lrs: list[float]
    losses: list[float]

    def suggestion(self, smoothing: float = 0.9) -> float:
        """The lr at which the loss, as an exponential moving average, falls most steeply against log lr.

        Raises:
            ConfigError: if the loss never falls.
        """
        average, smooth = 0.0, []
        for k, loss in enumerate(self.losses):
            average = smoothing * average + (1 - smoothing) * loss
            smooth.append(average / (1 - smoothing ** (k + 1)))  # without the bias towards the 0 of the start
        falls = [before - after for before, after in itertools.pairwise(smooth)]
        if not falls or max(falls) <= 0:
            raise ConfigError(f"lr: the loss does not fall at any lr between {self.lrs[0]:g} and {self.lrs[-1]:g}")
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
    """Train a copy of the module while its lr grows from `low` to `high` (Smith 2017); the module stays as it is.

    All learning rates keep the ratios that the parametrization sets, so what is found at the base width is the `lr` to
    give there.

    Args:
        stop: losses from the first above `stop` times the lowest so far, or not finite, are left out.
        trainer: further arguments of `lightning.Trainer`.

    Raises:
        ConfigError: unless 0 < low < high and steps > 1.
    """
    if not (0 < low < high < math.inf and steps > 1):
        raise ConfigError(f"find_lr: low={low}, high={high}, steps={steps}: must be 0 < low < high and steps > 1")
    trained = copy.deepcopy(module)
    trained.schedule = RangeTest(module.lr, low, high)  # type: ignore[assignment]  # its `scheduler` is what is used
    record = LossRecord()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(**quiet | trainer, max_steps=steps, max_epochs=-1, limit_val_batches=0, callbacks=[record]).fit(
        trained, datamodule=data
    )
    losses: list[float] = []
    for loss in record.losses[: record.steps].tolist():
        if not loss <= stop * min(losses, default=loss):
            break
        losses.append(loss)
    growth = (high / low) ** (1 / (steps - 1))
    return LRSearch([low * growth**k for k in range(len(losses))], losses)
