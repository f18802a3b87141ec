"""A learning-rate finder that keeps the ratios between param groups."""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer

from mupl.errors import ConfigError
from mupl.training.callbacks import LossRecord
from mupl.training.module import TrainingModule

QUIET: dict[str, Any] = {
    "max_epochs": -1,
    "limit_val_batches": 0,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class RangeTest(Callback):
    """Multiply the lr of every param group by a factor that changes from update to update.

    It takes the place of the module's own schedule.

    Args:
        factors: of update k = 0, 1, ...
    """

    def __init__(self, factors: Sequence[float]) -> None:
        self.factors = factors

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        k = min(trainer.global_step, len(self.factors) - 1)
        factor = self.factors[k]
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor


@dataclass(frozen=True)
class LRSearch:
    """Training losses under a growing lr.

    Args:
        lrs: of each update.
        losses: before each update.
    """

    lrs: list[float]
    losses: list[float]

    def suggestion(self, smoothing: float = 0.9) -> float:
        """Find the lr at which the smoothed loss falls most steeply against log lr.

        The first losses are averaged over too few to tell a fall from noise. So falls count once
        the average has its window of 1 / (1 - smoothing) updates, unless there is none after that.

        Args:
            smoothing: weight of the past in the exponential moving average of the loss.

        Raises:
            ConfigError: if the loss never falls, or smoothing is not in [0, 1).

        >>> LRSearch([0.1, 0.2, 0.4, 0.8], [3.0, 2.9, 2.0, 1.9]).suggestion(smoothing=0)
        0.2
        """
        if not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing={smoothing}: must be in [0, 1), such as 0.9")
        smooth = _averages(self.losses, smoothing)
        falls = [before - after for before, after in itertools.pairwise(smooth)]
        window = math.ceil(round(1 / (1 - smoothing), 6))  # 10 at 0.9, where floats give 10 + 2e-15
        first = window if max(falls[window:], default=0.0) > 0 else 0
        steepest = max(falls[first:], default=0.0)
        if steepest <= 0:
            raise ConfigError(
                f"lr: the loss does not fall at any lr between {self.lrs[0]:g} and {self.lrs[-1]:g}"
            )
        return self.lrs[falls.index(steepest, first)]


def _averages(losses: Sequence[float], smoothing: float) -> list[float]:
    """Average exponentially, without the bias towards the 0 of the start."""
    average = 0.0
    averages = []
    for k, loss in enumerate(losses):
        average = smoothing * average + (1 - smoothing) * loss
        averages.append(average / (1 - smoothing ** (k + 1)))
    return averages


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
    """Train a copy of the module while its lr grows from `low` to `high` by equal factors.

    This is the range test of Smith (2017), but the lr of every param group grows in proportion, so
    that what is found is the `lr` to give to such a module.

    Args:
        module: stays as it is.
        low, high, steps: the first and the last lr, and the number of updates.
        stop: losses from the first above `stop` times the lowest so far, or not finite, are left
            out.
        trainer: further arguments of `lightning.Trainer`.

    Raises:
        ConfigError: unless 0 < low < high and steps > 1.

    Example:
        >>> import mupl
        >>> from mupl.data import digits
        >>> from mupl.data.modules import TensorData
        >>> from mupl.models import MLP
        >>> setup = mupl.Setup(lambda w: MLP(64, 10, w), 32, base_width=16, lr=0.01)
        >>> data = TensorData(digits(), batch_size=64)
        >>> search = find_lr(mupl.TrainingModule(setup), data, steps=20, accelerator="cpu")
        >>> search.lrs[0] <= search.suggestion() <= search.lrs[-1]
        True
    """
    if not isinstance(module, TrainingModule):
        kind = type(module).__name__
        raise ConfigError(f"find_lr: takes a mupl.TrainingModule(setup), not a {kind}")
    lrs = _grid(low, high, steps)
    record = LossRecord()
    range_test = RangeTest([lr / module.training_setup.lr for lr in lrs])
    callbacks = [*trainer.get("callbacks", []), record, range_test]
    options = {**QUIET, "max_steps": steps, **trainer, "callbacks": callbacks}
    Trainer(**options).fit(copy.deepcopy(module), datamodule=data)
    losses = _before_divergence(record.losses[: record.steps].tolist(), stop)
    return LRSearch(lrs[: len(losses)], losses)


def _grid(low: float, high: float, steps: int) -> list[float]:
    """Return numbers from `low` to `high` by equal factors."""
    if not (0 < low < high < math.inf and steps > 1):
        raise ConfigError(
            f"find_lr: low={low}, high={high}, steps={steps}: must be 0 < low < high and steps > 1"
        )
    return [low * (high / low) ** (k / (steps - 1)) for k in range(steps)]


def _before_divergence(losses: Sequence[float], stop: float) -> list[float]:
    """Keep losses up to the first that is not finite or above `stop` times the lowest so far."""
    kept: list[float] = []
    for loss in losses:
        limit = stop * min(kept, default=loss)
        if not loss <= limit:  # true for NaN too
            break
        kept.append(loss)
    return kept
