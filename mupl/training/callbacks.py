"""What a run notes while it trains."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn


class LossRecord(Callback):
    """Keeps every training loss on the device and stops a run whose loss became NaN or infinite.

    The host looks at the losses only where Lightning logs (`log_every_n_steps`) and at the end, so that a step needs no
    synchronisation.

    Attributes:
        losses: (max_steps,) on the device; NaN where no step was made yet.
        steps: number of updates made; of a diverged run, the number whose loss was finite.
        diverged: whether a loss was not finite.
    """

    def __init__(self) -> None:
        self.losses = torch.empty(0)
        self.steps = 0
        self.diverged = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses = torch.full((int(trainer.estimated_stepping_batches),), torch.nan, device=pl_module.device)
        self.steps, self.diverged = 0, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses[self.steps] = outputs["loss"]
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

    def final_loss(self, fraction: float = 0.1) -> float:
        """Mean loss over the last `fraction` of the steps: one mini-batch alone is too noisy to compare runs by."""
        count = max(1, round(fraction * self.steps))
        return float(self.losses[self.steps - count : self.steps].mean()) if not self.diverged else float("nan")


class StepProgress(Callback):
    """One bar over all the steps of a run, with the last logged loss."""

    def __init__(self) -> None:
        columns = SpinnerColumn(), *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, TextColumn("{task.fields[loss]}"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._task = self._progress.add_task("training", total=trainer.estimated_stepping_batches, loss="")
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

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._progress.stop()
