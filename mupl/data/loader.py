"""Batches made on the device where the data lie."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def seeded(seed: int, index: int) -> torch.Generator:
    """A generator on the CPU for epoch or step `index` of a run: what it draws is the same on every device."""
    # SeedSequence mixes the pair; a sum would make epoch 1 of seed 0 be epoch 0 of seed 1.
    mixed = np.random.SeedSequence((seed, index)).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def epoch_order(num_examples: int, seed: int, epoch: int) -> Tensor:
    """Permutation of the examples, (num_examples,) int64: a function of (seed, epoch)."""
    return torch.randperm(num_examples, generator=seeded(seed, epoch))


class Normalise:
    """x (..., C, H, W) uint8 -> (x / 255 - mean) / std of `dtype`, for mean and std (C,)."""

    def __init__(
        self, mean: Tensor, std: Tensor, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.dtype = dtype
        self._scale = (1 / (255 * std)).to(device, dtype)[:, None, None]
        self._shift = (-mean / std).to(device, dtype)[:, None, None]

    def __call__(self, x: Tensor) -> Tensor:
        # In place; one torch.addcmul in place of the three is two times slower on the CPU.
        return x.to(self.dtype).mul_(self._scale).add_(self._shift)


class TensorLoader:
    """Iterates over batches (x, y) of tensors in memory, x being (x / 255 - mean) / std.

    With a seed: a new order each epoch (`epoch_order`), an incomplete last batch is dropped. With seed None: in order,
    the last batch is kept. Each `iter` is one epoch; they count from 0 unless `set_epoch` says otherwise.

    Shapes: x (N, C, H, W) uint8, y (N,) int64, mean and std (C,); a batch is x (B, C, H, W) of `dtype`, y (B,), both
    on the device of the tensors. A batch costs one index_select for x and one for y (none if in order), a cast, a
    product and a sum.
    """

    batch_sampler = None  # Lightning asks for it where there is a `sampler`

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.seed = seed
        self._normalise = Normalise(mean, std, x.device, dtype)
        self._next_epoch = 0
        self._first_batch = 0  # of the next iteration; not 0 only after load_state_dict
        self._position = {"epoch": 0, "batch": 0}

    def __len__(self) -> int:
        """Batches in an epoch."""
        if self.seed is None:
            return -(-len(self.x) // self.batch_size)
        return len(self.x) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator, so that nothing here runs before the first batch is asked for: Lightning calls iter() once to
        # look whether it works, and sets the epoch only after it made the first iterator.
        epoch, first = self._next_epoch, self._first_batch
        self._next_epoch, self._first_batch = epoch + 1, 0
        order = (
            None
            if self.seed is None
            else epoch_order(len(self.x), self.seed, epoch).to(self.x.device)
        )
        for batch in range(first, len(self)):
            rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            if order is None:
                x, y = self.x[rows], self.y[rows]
            else:
                x, y = self.x.index_select(0, order[rows]), self.y.index_select(0, order[rows])
            self._position = {"epoch": epoch, "batch": batch + 1}
            yield self._normalise(x), y

    @property
    def sampler(self) -> "TensorLoader":
        """Itself: at the start of an epoch Lightning calls `set_epoch` of a loader's sampler, not of the loader."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        if epoch != self._next_epoch:
            self._first_batch = 0
        self._next_epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The position in the epoch: Lightning saves it, so that a run resumed amid an epoch sees the batches left."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next iteration go on from where `state` was taken."""
        self._position = dict(state)
        self._next_epoch, self._first_batch = state["epoch"], state["batch"]
