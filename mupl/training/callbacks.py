"""What a run records and shows while it trains."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from mupl.training.outcome import outcome


class LossRecord(Callback):
    """Keeps the loss of every update, and stops a run whose loss is no longer finite.

    The loss of an update is the mean over its batches, where gradients accumulate
    (`accumulate_grad_batches`). The host looks at the losses, which stay on the device, only where
    Lightning logs (`log_every_n_steps`) and at the end, so that a step needs no synchronisation.

    Attributes:
        losses: (max_steps,) on the device, from the first batch on; NaN where no update was made
            yet.
        steps: number of updates made; of a diverged run, the number whose loss was finite.
        diverged: whether a loss was not finite.
    """

    def __init__(self) -> None:
        self._reset(updates=0)

    def _reset(self, updates: int) -> None:
        self.losses = torch.empty(0)
        self.steps = 0
        self.diverged = False
        self._batches: list[Tensor] = []  # losses since the last update
        self._updates = updates  # Lightning's number of them at the last batch

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"]
        if not len(self.losses):
            max_steps = int(trainer.estimated_stepping_batches)
            self.losses = loss.new_full((max_steps,), torch.nan)
        self._batches.append(loss)
        if trainer.global_step == self._updates:  # gradients accumulate
            return
        self._updates = trainer.global_step
        if trainer.accumulate_grad_batches > 1:
            # Lightning has divided each loss by this number
            loss = trainer.accumulate_grad_batches * torch.stack(self._batches).mean()
        self.losses[self.steps] = loss
        self._batches = []
        self.steps += 1
        if self.steps % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        finite = self.losses[: self.steps].isfinite()
        if not finite.all():
            self.diverged = True
            self.steps = int(finite.int().argmin())
            trainer.should_stop = True

    def outcome(self, validation: Mapping[str, float]) -> dict[str, Any]:
        """Return what `mupl.training.outcome.outcome` says of these losses."""
        return outcome(self.losses[: self.steps], self.diverged, validation)


class StepProgress(Callback):
    """Shows one bar over all the steps of a run, with the last logged loss."""

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(),
            *Progress.get_default_columns()[:2],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, TextColumn("{task.fields[loss]}"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._task = self._progress.add_task(
            "training", total=trainer.estimated_stepping_batches, loss=""
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            loss = f"train_loss {outputs['loss'].item():.4f}"
            self._progress.update(self._task, completed=trainer.global_step, loss=loss)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.update(self._task, completed=trainer.global_step)
        self._progress.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._progress.stop()
