"""The data sets as Lightning's data modules.

`mupl.data` does not import this module: Lightning takes longer to import than all else together,
and a stacked sweep does without it.
"""

from typing import Any

import torch
from lightning import LightningDataModule

from mupl.data.batches import EvalLoader, TrainLoader
from mupl.data.splits import Examples
from mupl.data.text import VAL_CROPS, Tokens
from mupl.errors import ConfigError

# Examples in a batch of an evaluation that was given no size; bounds its activations
MAX_EVAL_BATCH = 4096


def data_module(splits: Examples | Tokens, **options: Any) -> LightningDataModule:
    """The data module for what a source returns; options: batch_size, seed, micro_batches."""
    if isinstance(splits, Tokens):
        return TextData(splits, **options)
    return TensorData(splits, **options)


class InMemoryData(LightningDataModule):
    """Batches that are made on the trainer's device, of data in memory or in mapped files.

    Each process of the trainer gets its own part of every training batch, so that the mean over all
    is what one process sees. Each validates on all examples.

    Args:
        batch_size: train examples in a step, of all processes together.
        seed: of the train batches.
        micro_batches: into how many parts a process cuts its batches, which is to be the trainer's
            `accumulate_grad_batches`: the gradients of a step add up to the whole batch's.

    Raises:
        ConfigError: if a size is out of range.
    """

    def __init__(
        self, splits: Examples | Tokens, batch_size: int, seed: int, micro_batches: int = 1
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: must be at least 1")
        self.splits = splits
        self.batch_size = batch_size
        self.seed = seed
        self.micro_batches = micro_batches

    @property
    def device(self) -> torch.device:
        """The trainer's, or the CPU."""
        if self.trainer is None:
            return torch.device("cpu")
        return self.trainer.strategy.root_device

    def train_dataloader(self) -> TrainLoader:
        """Iterate over this process's parts of the batches.

        Raises:
            ConfigError: if a batch cannot be cut into equal parts.
        """
        world_size = 1 if self.trainer is None else self.trainer.world_size
        rank = 0 if self.trainer is None else self.trainer.global_rank
        parts = world_size * self.micro_batches
        if self.batch_size % parts:
            raise ConfigError(
                f"batch_size={self.batch_size}: must be a multiple of {parts}, which is devices "
                f"({world_size}) times micro_batches ({self.micro_batches}); it is of all together"
            )
        batches = self.splits.train_batches(self.batch_size, [self.seed], self.device, parts)
        return TrainLoader(batches, self.micro_batches, rank, world_size)


class TensorData(InMemoryData):
    """Examples as a data module: shuffled train batches and ordered validation batches.

    Args:
        eval_batch_size: validation examples in a batch; None is the whole split, up to 4096.

    Example:
        >>> from mupl.data import digits
        >>> data = TensorData(digits(), batch_size=64, seed=0)
        >>> len(data.train_dataloader()), len(data.val_dataloader())
        (22, 1)
    """

    splits: Examples

    def __init__(
        self,
        splits: Examples,
        batch_size: int,
        seed: int = 0,
        eval_batch_size: int | None = None,
        micro_batches: int = 1,
    ) -> None:
        super().__init__(splits, batch_size, seed, micro_batches)
        splits.check_batch_size(batch_size)
        if eval_batch_size is None:
            eval_batch_size = min(len(splits.val_x), MAX_EVAL_BATCH)
        if eval_batch_size < 1:
            raise ConfigError(
                f"eval_batch_size={eval_batch_size}: "
                "must be at least 1, or null for the whole split"
            )
        self.eval_batch_size = eval_batch_size

    def val_dataloader(self) -> EvalLoader:
        return self.splits.val_batches(self.eval_batch_size, self.device)


class TextData(InMemoryData):
    """Tokens as a data module: random crops to train on, fixed ones to validate on.

    Args:
        val_crops: number of crops to validate on.
    """

    splits: Tokens

    def __init__(
        self,
        splits: Tokens,
        batch_size: int,
        seed: int = 0,
        val_crops: int = VAL_CROPS,
        micro_batches: int = 1,
    ) -> None:
        super().__init__(splits, batch_size, seed, micro_batches)
        if val_crops < 1:
            raise ConfigError(f"val_crops={val_crops}: must be at least 1")
        self.val_crops = val_crops

    def val_dataloader(self) -> EvalLoader:
        return self.splits.val_batches(self.batch_size, self.device, self.val_crops)
