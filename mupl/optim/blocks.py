"""Cut tensors into blocks, which an optimizer treats as tensors of their own."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """A stretch of one dimension that is cut into pieces of one size."""

    start: int
    count: int
    size: int


@dataclass(frozen=True)
class Tile:
    """The blocks of a tensor that have one shape, side by side.

    Args:
        runs: of each dimension.
    """

    runs: tuple[Run, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a block."""
        return tuple(run.size for run in self.runs)

    @property
    def count(self) -> int:
        """The number of blocks."""
        count = 1
        for run in self.runs:
            count *= run.count
        return count

    def take(self, x: Tensor) -> Tensor:
        """Return the blocks (S * count, *shape) of tensors (S, ...), as a copy."""
        blocks = self._split(x).clone(memory_format=torch.contiguous_format)
        return blocks.view(-1, *self.shape)

    def put(self, x: Tensor, blocks: Tensor) -> None:
        """Write blocks (S * count, *shape) to where `take` found them."""
        places = self._split(x)
        places.copy_(blocks.view(places.shape))

    def _split(self, x: Tensor) -> Tensor:
        """Return a view (S, *counts, *shape)."""
        for d, run in enumerate(self.runs):
            dim = 1 + 2 * d
            part = x.narrow(dim, run.start, run.count * run.size)
            x = part.unflatten(dim, (run.count, run.size))
        counts = range(1, x.dim(), 2)
        sizes = range(2, x.dim(), 2)
        return x.permute(0, *counts, *sizes)


def tiles(shape: Sequence[int], size: int | None) -> list[Tile]:
    """Cut a tensor into blocks of at most `size` along each dimension; None: into one.

    What is left at an end is a block of its own.

    Example:
        >>> [(tile.count, tile.shape) for tile in tiles((8, 5), 4)]
        [(2, (4, 4)), (2, (4, 1))]
    """
    by_dim = [_runs(n, n if size is None else size) for n in shape]
    return [Tile(runs) for runs in itertools.product(*by_dim)]


def _runs(n: int, size: int) -> list[Run]:
    whole, left = divmod(n, size)
    runs = [Run(0, whole, size), Run(whole * size, 1, left)]
    return [run for run in runs if run.count and run.size]
