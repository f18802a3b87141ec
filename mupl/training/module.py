"""The one LightningModule: any model, in any parametrization, under any optimizer."""

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from mupl.errors import ConfigError
from mupl.training.setup import Setup


class TrainingModule(Setup, LightningModule):
    """A `Setup`, whose arguments it takes, for Lightning's trainer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def setup(self, stage: str) -> None:
        if any(isinstance(callback, LearningRateFinder) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise ConfigError(
                "callbacks: Lightning's learning-rate finder sets all param groups to one lr, which undoes the "
                "parametrization; use mupl.training.lr_finder.find_lr"
            )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        loss = self.loss(self.model(x), target)
        # `self.log` costs as much as a small step: call it only where Lightning writes a row
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, target = batch
        output = self.model(x)
        values = {"val_loss": self.loss(output, target)}
        if not target.is_floating_point():
            accuracy = (output.argmax(-1) == target).float().mean()
            values["val_accuracy"] = accuracy.where(values["val_loss"].isfinite(), torch.nan)
        self.log_dict(values, prog_bar=True, batch_size=len(target))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.build_optimizer()
        scheduler = self.schedule.scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
