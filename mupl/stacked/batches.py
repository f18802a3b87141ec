"""Batches for a stack: one for each of its members, or one for all that share a seed."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mupl.data.loader import Normalise, epoch_order
from mupl.data.splits import Splits
from mupl.data.text import CropLoader, Tokens


def stacked_batches(
    splits: Splits | Tokens,
    seeds: Sequence[int],
    batch_size: int,
    device: torch.device,
    share: bool = True,
) -> "StackedTensors | StackedCrops":
    """The batches that the data module of `splits` gives to each member alone, `per_epoch` of them an epoch.

    After `set_step(k)`, on the host, a call with k as a tensor (1,) on the device gives x (G, B, ...) and y (G, B, ...)
    of step k. Members that come in runs of equal length with equal seeds have one batch a run, so that G is the number
    of runs; otherwise each has its own.

    Args:
        seeds: one a member.
        share: False gives each member its own batch in any case.
    """
    distinct = list(dict.fromkeys(seeds))
    runs = [seed for seed in distinct for _ in range(len(seeds) // len(distinct))]
    seeds = distinct if share and runs == list(seeds) else list(seeds)
    if isinstance(splits, Tokens):
        return StackedCrops(splits, seeds, batch_size, device)
    return StackedTensors(splits, seeds, batch_size, device)


def validation_batches(
    splits: Splits | Tokens, outputs: int, device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    """The validation examples, at most `outputs` classified images or predicted tokens a batch."""
    outputs_each = splits.context if isinstance(splits, Tokens) else 1
    return splits.val_batches(max(1, outputs // outputs_each), device)


class StackedTensors:
    """The batches of `TensorData` for each of the seeds: x (G, B, C, H, W), y (G, B)."""

    def __init__(
        self, splits: Splits, seeds: Sequence[int], batch_size: int, device: torch.device
    ) -> None:
        self._seeds = seeds
        self._x, self._y = splits.train_x.to(device), splits.train_y.to(device)
        self._normalise = Normalise(splits.mean, splits.std, device)
        self.per_epoch = len(self._x) // batch_size
        self._rows = torch.empty(
            len(self._seeds), self.per_epoch, batch_size, dtype=torch.int64, device=device
        )
        self._epoch: int | None = None

    def set_step(self, k: int) -> None:
        """Make the order that of the epoch of step k."""
        epoch = k // self.per_epoch
        if epoch != self._epoch:
            self._epoch = epoch
            used = self._rows[0].numel()
            orders = {
                seed: epoch_order(len(self._x), seed, epoch)[:used] for seed in set(self._seeds)
            }
            self._rows.copy_(
                torch.stack([orders[seed] for seed in self._seeds]).view_as(self._rows)
            )

    def __call__(self, k: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows.index_select(1, k % self.per_epoch).squeeze(1)
        x = self._normalise(self._x.index_select(0, rows.flatten()))
        return x.unflatten(0, rows.shape), self._y[rows]


class StackedCrops:
    """The batches of `TextData` for each of the seeds: x and y (G, B, T)."""

    def __init__(
        self, tokens: Tokens, seeds: Sequence[int], batch_size: int, device: torch.device
    ) -> None:
        train = (
            tokens.train.to(device) if isinstance(tokens.train, Tensor) else tokens.train
        )  # once for all
        self._loaders = {
            seed: CropLoader(train, tokens.context, batch_size, device, seed)
            for seed in dict.fromkeys(seeds)
        }
        self._seeds, self.per_epoch = seeds, len(self._loaders[seeds[0]])
        # written anew at each step, in memory that a captured CUDA graph reads
        self._crops = torch.empty(
            len(seeds), batch_size, tokens.context + 1, dtype=torch.int64, device=device
        )

    def set_step(self, k: int) -> None:
        crops = {seed: loader.crops_of(k) for seed, loader in self._loaders.items()}
        torch.stack([crops[seed] for seed in self._seeds], out=self._crops)

    def __call__(self, k: Tensor) -> tuple[Tensor, Tensor]:
        return self._crops[..., :-1], self._crops[..., 1:]
