"""The data sets as Lightning's data modules."""

from typing import Any

import torch
from lightning import LightningDataModule, Trainer

from mupl.data.loader import TensorLoader
from mupl.data.splits import Splits
from mupl.data.text import VAL_CROPS, CropLoader, TokenArray, Tokens
from mupl.errors import ConfigError

MAX_EVAL_BATCH = 4096  # examples; bounds the activations of an evaluation that was given no batch size


def data_module(splits: Splits | Tokens, **options: Any) -> LightningDataModule:
    """The data module for a source's splits; options: batch_size, seed."""
    return TextData(splits, **options) if isinstance(splits, Tokens) else TensorData(splits, **options)


def check_one_process(trainer: Trainer) -> None:
    """Raises ConfigError where there are more: Lightning shards a torch DataLoader only."""
    if trainer.world_size > 1:
        raise ConfigError(f"trainer.devices={trainer.world_size}: every process would see the same batches; use 1")


class TensorData(LightningDataModule):
    """Splits as a data module: shuffled train batches and ordered validation batches, on the trainer's device.

    batch_size: train examples a step. seed: of the order. eval_batch_size: validation examples a batch; None is the
    whole split, up to 4096.

    Raises ConfigError if a batch size does not fit the split or the trainer has more than one process.
    """

    def __init__(self, splits: Splits, batch_size: int, seed: int = 0, eval_batch_size: int | None = None) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: must be at least 1")
        if batch_size > len(splits.train_x):
            raise ConfigError(
                f"batch_size={batch_size}: must be at most {len(splits.train_x)}, the size of the train split"
            )
        if eval_batch_size is None:
            eval_batch_size = min(len(splits.val_x), MAX_EVAL_BATCH)
        if eval_batch_size < 1:
            raise ConfigError(f"eval_batch_size={eval_batch_size}: must be at least 1, or null for the whole split")
        self.splits = splits
        self.batch_size = batch_size
        self.seed = seed
        self.eval_batch_size = eval_batch_size
        self._train = (splits.train_x, splits.train_y)
        self._val = (splits.val_x, splits.val_y)

    def setup(self, stage: str | None = None) -> None:
        """Put the tensors on the trainer's device, if there is a trainer; again is a no-op."""
        if self.trainer is None:
            return
        check_one_process(self.trainer)
        device = self.trainer.strategy.root_device
        self._train = (self._train[0].to(device), self._train[1].to(device))
        self._val = (self._val[0].to(device), self._val[1].to(device))

    def train_dataloader(self) -> TensorLoader:
        """Shuffled by `seed`; an incomplete last batch is dropped."""
        return TensorLoader(*self._train, self.batch_size, self.splits.mean, self.splits.std, seed=self.seed)

    def val_dataloader(self) -> TensorLoader:
        """In order, every example once."""
        return TensorLoader(*self._val, self.eval_batch_size, self.splits.mean, self.splits.std)


class TextData(LightningDataModule):
    """Tokens as a data module: random crops to train on, `val_crops` fixed ones to validate on.

    batch_size: crops a step. seed: of the crops.

    Raises ConfigError if a size is out of range or the trainer has more than one process.
    """

    def __init__(self, splits: Tokens, batch_size: int, seed: int = 0, val_crops: int = VAL_CROPS) -> None:
        super().__init__()
        for key, value in (("batch_size", batch_size), ("val_crops", val_crops)):
            if value < 1:
                raise ConfigError(f"{key}={value}: must be at least 1")
        self.splits, self.batch_size, self.seed, self.val_crops = splits, batch_size, seed, val_crops

    def setup(self, stage: str | None = None) -> None:
        if self.trainer is not None:
            check_one_process(self.trainer)

    def train_dataloader(self) -> CropLoader:
        """Random crops by `seed`."""
        return self._loader(self.splits.train, self.seed)

    def val_dataloader(self) -> CropLoader:
        """The same crops each time."""
        return self._loader(self.splits.val, None)

    def _loader(self, tokens: TokenArray, seed: int | None) -> CropLoader:
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        return CropLoader(tokens, self.splits.context, self.batch_size, device, seed, self.val_crops)
