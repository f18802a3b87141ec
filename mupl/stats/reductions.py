"""Statistics of a tensor, as tensors on its device."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mupl.nn.spectral_norm import ITERATIONS, positive, spectral_norm

CPU_ENTRIES = 2**17  # that are reduced at once: what stays in a core's cache
GPU_ENTRIES = 2**24  # enough to keep a GPU busy, in little memory


class TensorReductions:
    """The reductions of a tensor that its statistics share, each computed at most once.

    A reduction has shape (S..), the leading member dimensions of the tensor (S.., *shape). It is
    computed in float32 or better, without synchronisation. As a matrix a tensor is
    (S.., fan_out, fan_in): dimensions after the second are flattened into fan_in. Of a tensor that
    holds several matrices the spectral norm is the largest of theirs.

    Args:
        x: the tensor (S.., *shape).
        members: number of leading dimensions S.
        iterations: of `spectral_norm`.
        batch_dims: how many dimensions after S count matrices.
    """

    def __init__(
        self, x: Tensor, members: int = 0, iterations: int = ITERATIONS, batch_dims: int = 0
    ) -> None:
        self.x = x.detach()
        if x.dtype in (torch.float16, torch.bfloat16):
            self.x = self.x.float()
        self.members = members
        self.iterations = iterations
        self.batch_dims = batch_dims
        self.is_matrix = x.dim() - members - batch_dims >= 2
        self.numel = math.prod(x.shape[members:])

    @property
    def matrix(self) -> Tensor:
        """The tensor as (S.., fan_out, fan_in), or (S.., copies, fan_out, fan_in)."""
        return self.x.flatten(self.members + self.batch_dims + 1)

    @property
    def copies(self) -> int:
        """The number of matrices in the tensor."""
        return math.prod(self.x.shape[self.members : self.members + self.batch_dims])

    @cached_property
    def blocks(self) -> tuple[Tensor, ...]:
        """The entries in pieces (S.., n).

        Pieces stay in a CPU's cache, and few numbers are added one by one in float32: there
        `torch.linalg.vector_norm` of 4 million equal numbers is wrong by 2 %.
        """
        members = self.x.shape[: self.members]
        entries = self.x.reshape(*members, -1)
        size = GPU_ENTRIES if self.x.is_cuda else CPU_ENTRIES
        return entries.split(size, -1)

    def _reduce(
        self, reduce: Callable[[Tensor], Tensor], combine: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Reduce each block to (S..), and combine the results along the last dimension."""
        results = [reduce(block) for block in self.blocks]
        if len(results) == 1:
            return results[0]
        return combine(torch.stack(results, -1))

    @cached_property
    def absolute_sum(self) -> Tensor:
        """sum |x|"""
        return self._reduce(lambda block: block.abs().sum(-1), _sum)

    @cached_property
    def mean(self) -> Tensor:
        """sum x / n"""
        return self._reduce(_sum, _sum) / self.numel

    @cached_property
    def frobenius(self) -> Tensor:
        """sqrt(sum x^2)"""
        return self._reduce(_norm, _norm)

    @cached_property
    def centred(self) -> Tensor:
        """sqrt(sum (x - mean)^2), not by the difference of squares: of a norm's gain, whose
        entries are all near 1, nothing would be left of it."""
        mean = self.mean[..., None]
        return self._reduce(lambda block: _norm(block - mean), _norm)

    @cached_property
    def spectral(self) -> Tensor:
        """The largest singular value."""
        norms = spectral_norm(self.matrix, self.iterations)
        return norms.flatten(self.members).amax(-1) if self.batch_dims else norms


def _sum(x: Tensor) -> Tensor:
    return x.sum(-1)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


@dataclass(frozen=True)
class Statistic:
    """A number made of a tensor.

    Args:
        value: the number, from the tensor's reductions.
        scale: `c ->` the statistic of `c * x` over the statistic of `x`; c is a number, or
            a tensor with one for each member.
        of_matrices: whether it is defined for matrices only.
    """

    value: Callable[[TensorReductions], Tensor]
    scale: Callable[[Any], Any] = abs
    of_matrices: bool = False


def _rms_to_rms(x: TensorReductions) -> Tensor:
    fan_out, fan_in = x.matrix.shape[-2:]
    return x.spectral * math.sqrt(fan_in / fan_out)


def _stable_rank(x: TensorReductions) -> Tensor:
    return (x.frobenius / positive(x.spectral)) ** 2 / x.copies


# A new statistic is one more entry. x has n entries; as a matrix it has singular values
# s_1 >= s_2 >= ...
STATISTICS: dict[str, Statistic] = {
    # mean |x|
    "l1": Statistic(lambda x: x.absolute_sum / x.numel),
    # sqrt(mean x^2)
    "rms": Statistic(lambda x: x.frobenius / math.sqrt(x.numel)),
    # sqrt(mean (x - mean x)^2)
    "std": Statistic(lambda x: x.centred / math.sqrt(x.numel)),
    # mean x
    "mean": Statistic(lambda x: x.mean, scale=lambda c: c),
    # sqrt(sum x^2)
    "frobenius": Statistic(lambda x: x.frobenius, of_matrices=True),
    # s_1
    "spectral": Statistic(lambda x: x.spectral, of_matrices=True),
    # sqrt(fan_in / fan_out) s_1: by how much the RMS of a vector grows at most (Yang, Simon &
    # Bernstein 2023)
    "rms_to_rms": Statistic(_rms_to_rms, of_matrices=True),
    # sum s_i^2 / s_1^2, between 1 and the rank; 0 for a zero matrix. Of several matrices the mean
    # of the sums over the largest s_1^2
    "stable_rank": Statistic(_stable_rank, scale=lambda c: 1.0, of_matrices=True),
}


def measure(x: TensorReductions, statistics: Iterable[str]) -> dict[str, Tensor]:
    """The statistics by name, each (S..).

    Statistics of matrices are left out for a tensor of fewer than two dimensions.

    >>> values = measure(TensorReductions(torch.tensor([[3.0, -4.0]])), ["l1", "spectral"])
    >>> {name: round(value.item(), 3) for name, value in values.items()}
    {'l1': 3.5, 'spectral': 5.0}
    """
    values = {}
    for name in statistics:
        statistic = STATISTICS[name]
        if x.is_matrix or not statistic.of_matrices:
            values[name] = statistic.value(x)
    return values
