"""The one LightningModule: any model, in any parametrization, under any optimizer."""

import math

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from mupl.errors import ConfigError
from mupl.training.setup import Setup

Batch = tuple[Tensor, Tensor]


class TrainingModule(LightningModule):
    """Lets Lightning's trainer train a `mupl.Setup` on batches `(x, target)`.

    Logs train_loss, val_loss and, for class indices, val_accuracy.

    Args:
        setup: the model, its loss, its optimizer and its schedule.

    Example:
        >>> import lightning, torch, mupl
        >>> setup = mupl.Setup(lambda w: torch.nn.Linear(4, w), 8, base_width=4, lr=0.1)
        >>> module = TrainingModule(setup)
        >>> module(torch.zeros(2, 4)).shape
        torch.Size([2, 8])
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        if not isinstance(setup, Setup):
            raise ConfigError(
                f"TrainingModule: takes a Setup, not a {type(setup).__name__}; say "
                "TrainingModule(mupl.Setup(build, width=..., base_width=..., lr=...))"
            )
        self.training_setup = setup  # LightningModule.setup is one of Lightning's hooks
        self.model = setup.model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def setup(self, stage: str) -> None:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, LearningRateFinder) for callback in callbacks):
            raise ConfigError(
                "callbacks: Lightning's learning-rate finder sets all param groups to one lr, "
                "which undoes the parametrization; use mupl.find_lr"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, target = batch
        loss = self.training_setup.loss(self.model(x), target)
        # `self.log` costs as much as a small step: call it only where Lightning writes a row
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.trainer.global_step + 1) % every == 0:
            self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, target = batch
        output = self.model(x)
        loss = self.training_setup.loss(output, target)
        values = {"val_loss": loss}
        if not target.is_floating_point():
            accuracy = (output.argmax(-1) == target).float().mean()
            values["val_accuracy"] = accuracy.where(loss.isfinite(), torch.nan)
        self.log_dict(values, prog_bar=True, batch_size=len(target))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.training_setup.optimizer()
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ConfigError("trainer.max_steps=-1: a schedule needs an end; say max_steps")
        scheduler = self.training_setup.schedule.scheduler(optimizer, int(steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
