"""The one LightningModule: any model, in any parametrization, under any optimizer."""

import math
from typing import Any

import lightning
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

import mupl
from mupl.errors import ConfigError
from mupl.parametrization.update_kinds import UpdateKind
from mupl.training.blocks import shard
from mupl.training.resume import (
    RESUME,
    check_same,
    check_same_steps,
    record,
    use_groups_of,
    use_rates_of,
)
from mupl.training.setup import Setup

Batch = tuple[Tensor, Tensor]


class TrainingModule(LightningModule):
    """Lets Lightning's trainer train a `mupl.Setup` on batches `(x, target)`.

    Logs train_loss, val_loss and, for class indices, val_accuracy, as means over all processes. Its
    checkpoints hold what each tensor got, the hyperparameters, the schedule and the versions of
    packages.

    Args:
        setup: the model, its loss, its optimizer and its schedule.
        resume: what a checkpoint may be loaded into. "strict": the setup that saved it. "changed":
            also one with other learning rates, eps, weight decay, options, schedule or steps; it
            goes on with these. Multipliers and the optimizer's class must always be the
            checkpoint's, as its weights and states mean nothing else.

    Example:
        >>> import lightning, torch, mupl
        >>> setup = mupl.Setup(lambda w: torch.nn.Linear(4, w), 8, base_width=4, lr=0.1)
        >>> module = TrainingModule(setup)
        >>> module(torch.zeros(2, 4)).shape
        torch.Size([2, 8])
    """

    def __init__(self, setup: Setup, resume: str = "strict") -> None:
        super().__init__()
        if resume not in RESUME:
            raise ConfigError(f"TrainingModule: resume={resume}: must be strict or changed")
        if not isinstance(setup, Setup):
            raise ConfigError(
                f"TrainingModule: takes a Setup, not a {type(setup).__name__}; say "
                "TrainingModule(mupl.Setup(build, width=..., base_width=..., lr=...))"
            )
        self.training_setup = setup  # LightningModule.setup is one of Lightning's hooks
        self.model = setup.model
        self.resume = resume
        self._losses: list[Tensor] = []  # of the batches of an update
        self._loaded: dict[str, Any] | None = None  # what the checkpoint says that was loaded

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def setup(self, stage: str) -> None:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, LearningRateFinder) for callback in callbacks):
            raise ConfigError(
                "callbacks: Lightning's learning-rate finder sets all param groups to one lr, "
                "which undoes the parametrization; use mupl.find_lr"
            )

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy):
            _check_elementwise(self.training_setup)
            shard(self.model, strategy.device_mesh["data_parallel"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x, target = batch
        loss = self.training_setup.loss(self.model(x), target)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._losses = []
        self._losses.append(loss.detach())
        # `self.log` costs as much as a small step: call it only where Lightning writes a row
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.trainer.global_step + 1) % every == 0:
            mean = torch.stack(self._losses).mean()  # over the batches of the update so far
            self.log("train_loss", mean, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, target = batch
        output = self.model(x)
        loss = self.training_setup.loss(output, target)
        values = {"val_loss": loss}
        if not target.is_floating_point():
            accuracy = (output.argmax(-1) == target).float().mean()
            values["val_accuracy"] = accuracy.where(loss.isfinite(), torch.nan)
        self.log_dict(values, prog_bar=True, batch_size=len(target), sync_dist=True)

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mupl"] = {
            "setup": record(self.training_setup),
            "max_steps": int(self.trainer.estimated_stepping_batches),
            "versions": {
                "mupl": mupl.__version__,
                "torch": str(torch.__version__),
                "lightning": lightning.__version__,
            },
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get("mupl", {})
        check_same(self._loaded.get("setup"), self.training_setup, self.resume)
        if self.resume == "changed":
            use_groups_of(self.training_setup, checkpoint)

    def on_train_start(self) -> None:
        if self._loaded is None:
            return
        if self.resume == "strict":
            steps = int(self.trainer.estimated_stepping_batches)
            check_same_steps(self._loaded.get("max_steps"), steps, self.training_setup)
        else:
            scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler
            use_rates_of(self.training_setup, self.trainer.optimizers[0], scheduler)
        self._loaded = None


def _check_elementwise(setup: Setup) -> None:
    """Refuse to shard weights of an optimizer that needs whole matrices.

    Raises:
        ConfigError: naming one.
    """
    for name, scale in setup.scales.items():
        is_elementwise = scale.update_kind in (UpdateKind.SGD, UpdateKind.ADAM)
        if scale.shape is not None and (scale.inner_kind is not None or not is_elementwise):
            raise ConfigError(
                f"trainer=fsdp2: updates of {name} ({scale.update_kind}) need the whole matrix, of "
                "which each process would have a part; say trainer=ddp, or an optimizer that acts "
                "on single numbers, such as adamw"
            )
