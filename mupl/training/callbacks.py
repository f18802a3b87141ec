"""What a run notes while it trains."""

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
    """Keeps the loss of every update on the device, and stops a run where it became NaN or infinite.

    The loss of an update is the mean over its batches, where gradients accumulate (`accumulate_grad_batches`).
    The host looks at the losses only where Lightning logs (`log_every_n_steps`) and at the end, so that a step needs no
    synchronisation.

    Attributes, from the start of a fit on:
        losses: (max_steps,) on the device; NaN where no step was made yet.
        steps: number of updates made; of a diverged run, the number whose loss was finite.
        diverged: whether a loss was not finite.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses = torch.empty(0)
        self.steps = 0
        self.diverged = False
        self._batches: list[Tensor] = []  # losses since the last update
        self._updates = trainer.global_step  # Lightning's number of them at the last batch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not len(self.losses):
            self.losses = outputs["loss"].new_full(
                (int(trainer.estimated_stepping_batches),), torch.nan
            )
        self._batches.append(outputs["loss"])
        if trainer.global_step == self._updates:  # gradients accumulate
            return
        self._updates = trainer.global_step
        n = trainer.accumulate_grad_batches  # by which Lightning divides each loss
        self.losses[self.steps] = (
            self._batches[0] if n == 1 else n * torch.stack(self._batches).mean()
        )
        self._batches = []
        self.steps += 1
        if self.steps % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        finite = self.losses[: self.steps].isfinite()
        if not finite.all():
            self.diverged, self.steps = True, int(finite.int().argmin())
            trainer.should_stop = True

    def outcome(self, validation: Mapping[str, float]) -> dict[str, Any]:
        return outcome(self.losses[: self.steps], self.diverged, validation)


class StepProgress(Callback):
    """One bar over all the steps of a run, with the last logged loss."""

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
