"""Batches for a stack: one for each of its members, or one for all that share a seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mupl.data.loader import Normalise, epoch_order
from mupl.data.splits import Splits


class StackedBatches:
    """The batches that `TensorData` gives to each member alone, at any step that a tensor on the device names.

    Members that come in runs of equal length with equal seeds draw one batch a run; otherwise each draws its own.

    Args:
        seeds: of the order, one a member.
        share: False gives each member its own batch in any case.

    Attributes:
        per_epoch: batches in an epoch.
    """

    def __init__(
        self, splits: Splits, seeds: Sequence[int], batch_size: int, device: torch.device, share: bool = True
    ) -> None:
        distinct = list(dict.fromkeys(seeds))
        runs = [seed for seed in distinct for _ in range(len(seeds) // len(distinct))]
        self._seeds = distinct if share and runs == list(seeds) else list(seeds)
        self._x, self._y = splits.train_x.to(device), splits.train_y.to(device)
        self._normalise = Normalise(splits.mean, splits.std, device)
        self.per_epoch = len(self._x) // batch_size
        self._rows = torch.empty(len(self._seeds), self.per_epoch, batch_size, dtype=torch.int64, device=device)
        self._epoch: int | None = None

    def set_step(self, k: int) -> None:
        """Make the order that of the epoch of step k."""
        epoch = k // self.per_epoch
        if epoch != self._epoch:
            self._epoch = epoch
            used = self._rows[0].numel()
            orders = {seed: epoch_order(len(self._x), seed, epoch)[:used] for seed in set(self._seeds)}
            self._rows.copy_(torch.stack([orders[seed] for seed in self._seeds]).view_as(self._rows))

    def __call__(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """x (G, B, C, H, W) and y (G, B) of step k (1,), G being 1 for each run of members or for each member."""
        rows = self._rows.index_select(1, k % self.per_epoch).squeeze(1)
        x = self._normalise(self._x.index_select(0, rows.flatten()))
        return x.unflatten(0, rows.shape), self._y[rows]
