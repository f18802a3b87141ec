"""What a run records while it trains."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mupl.training.module import TrainingModule
from mupl.training.outcome import outcome


class LossRecord(Callback):
    """Keeps the loss of every update, and stops a run whose loss is no longer finite.

    The loss of an update is the mean over its batches, where gradients accumulate
    (`accumulate_grad_batches`). The host looks at the losses, which stay on the device, only where
    Lightning logs (`log_every_n_steps`) and at the end, so that a step needs no synchronisation.
    Then the losses of several processes become their mean. Checkpoints hold them.

    Attributes:
        losses: (max_steps,) on the device, from the first batch on; NaN where no update was made
            yet.
        steps: number of updates made; of a diverged run, the number whose loss was finite.
        diverged: whether a loss was not finite.
        readout_norm: at the end, of a `TrainingModule` with one readout; else None.
    """

    def __init__(self) -> None:
        self._reset(updates=0)

    def _reset(self, updates: int) -> None:
        self.losses = torch.empty(0)
        self.steps = 0
        self.diverged = False
        self.readout_norm: float | None = None
        self._checked = 0  # the losses before are means over processes, and finite
        self._batches: list[Tensor] = []  # losses since the last update
        self._updates = updates  # Lightning's number of them at the last batch
        self._validation: dict[str, float] = {}
        self._loaded: tuple[Tensor, dict[str, float]] | None = None  # of a checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loaded = self._loaded
        self._reset(trainer.global_step)
        self._loaded = loaded

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._updates = trainer.global_step
        self._take_loaded()

    def _take_loaded(self) -> None:
        """Begin with what a checkpoint holds, which some strategies load after `on_fit_start`."""
        if self._loaded is not None:
            self.losses, self._validation = self._loaded
            self.steps = self._checked = len(self.losses)
            self._loaded = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)
        self._validation = self._present(trainer)
        checkpoint["mupl_losses"] = self.losses[: self.steps].cpu()
        checkpoint["mupl_validation"] = self._validation

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "mupl_losses" in checkpoint:
            self._loaded = checkpoint["mupl_losses"], checkpoint["mupl_validation"]

    def _present(self, trainer: Trainer) -> dict[str, float]:
        """Return the metrics that were last logged, of those before a checkpoint too."""
        now = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return {**self._validation, **now}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs["loss"]
        if len(self.losses) <= self.steps:
            max_steps = int(trainer.estimated_stepping_batches)
            before = self.losses
            self.losses = loss.new_full((max_steps,), torch.nan)
            self.losses[: len(before)] = before
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
        self._validation = self._present(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, TrainingModule):
            self.readout_norm = pl_module.training_setup.readout_norm()

    def _check(self, trainer: Trainer) -> None:
        new = self.losses[self._checked : self.steps]
        if trainer.world_size > 1 and len(new):
            new.copy_(trainer.strategy.reduce(new.clone(), reduce_op="mean"))
        self._checked = self.steps
        finite = self.losses[: self.steps].isfinite()
        if not finite.all():
            self.diverged = True
            self.steps = int(finite.int().argmin())
            trainer.should_stop = True

    def outcome(self) -> dict[str, Any]:
        """Return what `mupl.training.outcome.outcome` says of these losses and metrics."""
        self._take_loaded()
        losses = self.losses[: self.steps]
        return outcome(losses, self.diverged, self._validation, self.readout_norm)
