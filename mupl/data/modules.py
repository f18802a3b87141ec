"""The data sets as Lightning's data modules."""

from typing import Any

import torch
from lightning import LightningDataModule

from mupl.data.loader import TensorLoader
from mupl.data.splits import Splits
from mupl.data.text import VAL_CROPS, CropLoader, Tokens
from mupl.errors import ConfigError

MAX_EVAL_BATCH = (
    4096  # examples; bounds the activations of an evaluation that was given no batch size
)


def data_module(splits: Splits | Tokens, **options: Any) -> LightningDataModule:
    """The data module for a source's splits; options: batch_size, seed."""
    return (
        TextData(splits, **options) if isinstance(splits, Tokens) else TensorData(splits, **options)
    )


class InMemoryData(LightningDataModule):
    """Batches that are made on the trainer's device, of data in memory.

    batch_size: train examples a step. seed: of the train batches.

    Raises ConfigError if a size is out of range or the trainer has more than one process.
    """

    def __init__(self, splits: Splits | Tokens, batch_size: int, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: must be at least 1")
        self.splits, self.batch_size, self.seed = splits, batch_size, seed

    def setup(self, stage: str | None = None) -> None:
        if (
            self.trainer is not None and self.trainer.world_size > 1
        ):  # Lightning shards a torch DataLoader only
            raise ConfigError(
                f"trainer.devices={self.trainer.world_size}: every process would see the same batches; use 1"
            )

    @property
    def device(self) -> torch.device:
        """The trainer's, or the CPU."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def train_dataloader(self) -> TensorLoader | CropLoader:
        return self.splits.train_batches(self.batch_size, self.seed, self.device)


class TensorData(InMemoryData):
    """Splits as a data module: shuffled train batches and ordered validation batches.

    eval_batch_size: validation examples a batch; None is the whole split, up to 4096.
    """

    splits: Splits

    def __init__(
        self, splits: Splits, batch_size: int, seed: int = 0, eval_batch_size: int | None = None
    ) -> None:
        super().__init__(splits, batch_size, seed)
        if batch_size > len(splits.train_x):
            raise ConfigError(
                f"batch_size={batch_size}: must be at most {len(splits.train_x)}, the size of the train split"
            )
        if eval_batch_size is None:
            eval_batch_size = min(len(splits.val_x), MAX_EVAL_BATCH)
        if eval_batch_size < 1:
            raise ConfigError(
                f"eval_batch_size={eval_batch_size}: must be at least 1, or null for the whole split"
            )
        self.eval_batch_size = eval_batch_size

    def val_dataloader(self) -> TensorLoader:
        return self.splits.val_batches(self.eval_batch_size, self.device)


class TextData(InMemoryData):
    """Tokens as a data module: random crops to train on, `val_crops` fixed ones to validate on."""

    splits: Tokens

    def __init__(
        self, splits: Tokens, batch_size: int, seed: int = 0, val_crops: int = VAL_CROPS
    ) -> None:
        super().__init__(splits, batch_size, seed)
        if val_crops < 1:
            raise ConfigError(f"val_crops={val_crops}: must be at least 1")
        self.val_crops = val_crops

    def val_dataloader(self) -> CropLoader:
        return self.splits.val_batches(self.batch_size, self.device, self.val_crops)
