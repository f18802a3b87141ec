"""Statistics of a tensor, as tensors on its device, and the spectral norm without an SVD."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import Tensor

# Of `spectral_norm`, for a relative error of 1e-3 up to 2048 x 3072, as measured: of any matrix, say a Gaussian one; of
# one with a gap below its largest singular values, as updates and gradients have.
ITERATIONS, ITERATIONS_GAP = 11, 3
BLOCK = 16  # vectors; of a matrix that the cache does not hold, a product with 16 costs a CPU twice that with one
CPU_BLOCK, GPU_BLOCK = (
    2**17,
    2**24,
)  # entries: what stays in a core's cache; what keeps a GPU busy in little memory

_sum, _norm = partial(torch.sum, dim=-1), partial(torch.linalg.vector_norm, dim=-1)


class TensorReductions:
    """A tensor (S.., *shape), of which the first `members` dimensions S stay, and the reductions that statistics share.

    Each is (S..), computed at most once, in float32 or better, without synchronisation. As a matrix a tensor is
    (S.., fan_out, fan_in): dimensions after the second are flattened into fan_in.

    Args:
        iterations: of `spectral_norm`.
    """

    def __init__(self, x: Tensor, members: int = 0, iterations: int = ITERATIONS) -> None:
        self.x = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).detach()
        self.members, self.iterations = members, iterations
        self.is_matrix = x.dim() - members >= 2
        self.numel = math.prod(x.shape[members:])

    @property
    def matrix(self) -> Tensor:
        return self.x.flatten(self.members + 1)

    @cached_property
    def blocks(self) -> tuple[Tensor, ...]:
        """The entries in pieces (S.., n), so that what is made of one stays in a CPU's cache and few numbers are added
        one by one in float32 (`torch.linalg.vector_norm` of 4 million equal numbers is wrong by 2 % there)."""
        entries = self.x.reshape(*self.x.shape[: self.members], -1)
        return entries.split(GPU_BLOCK if self.x.is_cuda else CPU_BLOCK, -1)

    def _reduce(
        self, of_block: Callable[[Tensor, Tensor | None], Tensor], total: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """`total` over the results, along the last dimension, of `of_block(block, memory of its size)`."""
        if len(self.blocks) == 1:
            return of_block(self.blocks[0], None)
        scratch = torch.empty_like(self.blocks[0])
        return total(
            torch.stack(
                [of_block(block, scratch[..., : block.shape[-1]]) for block in self.blocks], -1
            )
        )

    @cached_property
    def absolute_sum(self) -> Tensor:
        return self._reduce(lambda block, out: torch.abs(block, out=out).sum(-1), _sum)

    @cached_property
    def mean(self) -> Tensor:
        return self._reduce(lambda block, _: block.sum(-1), _sum) / self.numel

    @cached_property
    def frobenius(self) -> Tensor:
        return self._reduce(lambda block, _: _norm(block), _norm)

    @cached_property
    def centred(self) -> Tensor:
        """sqrt(sum (x - mean)^2), not by the difference of squares, which cancels in a norm's gain."""
        mean = self.mean[..., None]
        return self._reduce(lambda block, out: _norm(torch.sub(block, mean, out=out)), _norm)

    @cached_property
    def spectral(self) -> Tensor:
        return spectral_norm(self.matrix, self.iterations)


@dataclass(frozen=True)
class Statistic:
    """A number made of a tensor; `scale(c)` is the factor between that of `c * x` and that of `x`."""

    value: Callable[[TensorReductions], Tensor]
    scale: Callable[[Any], Any] = abs  # of a number, or of a tensor with one for each member
    of_matrices: bool = False


# A new statistic is one more entry. x has n entries; as a matrix its singular values are s_1 >= s_2 >= ..
STATISTICS: dict[str, Statistic] = {
    # mean |x|
    "l1": Statistic(lambda m: m.absolute_sum / m.numel),
    # sqrt(mean x^2)
    "rms": Statistic(lambda m: m.frobenius / math.sqrt(m.numel)),
    # sqrt(mean (x - mean x)^2)
    "std": Statistic(lambda m: m.centred / math.sqrt(m.numel)),
    # mean x
    "mean": Statistic(lambda m: m.mean, scale=lambda c: c),
    # sqrt(sum x^2)
    "frobenius": Statistic(lambda m: m.frobenius, of_matrices=True),
    # s_1
    "spectral": Statistic(lambda m: m.spectral, of_matrices=True),
    # sqrt(fan_in / fan_out) s_1: by how much the RMS of a vector grows at most (Yang, Simon & Bernstein 2023)
    "rms_to_rms": Statistic(
        lambda m: m.spectral * math.sqrt(m.matrix.shape[-1] / m.matrix.shape[-2]), of_matrices=True
    ),
    # sum s_i^2 / s_1^2, between 1 and the rank; of a zero matrix 0
    "stable_rank": Statistic(
        lambda m: (m.frobenius / _positive(m.spectral)) ** 2, scale=lambda c: 1.0, of_matrices=True
    ),
}


def measure(x: TensorReductions, statistics: Iterable[str]) -> dict[str, Tensor]:
    """The statistics by name, each (S..); those of matrices are left out for a tensor of fewer than two dimensions."""
    return {
        s: STATISTICS[s].value(x)
        for s in statistics
        if x.is_matrix or not STATISTICS[s].of_matrices
    }


@torch.no_grad()
def spectral_norm(matrix: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Largest singular value (S..) of (S.., out, in), from below.

    The largest |A^T u| among unit u in the space of A P, (A A^T) A P, (A A^T)^2 A P, .. for a random P (in, BLOCK):
    block Krylov (Musco & Musco 2015, algorithm 2); if A is as small as that space, among all u. In full precision of
    the matrix's dtype, with the same P always, by a fixed number of steps, without synchronisation.

    Args:
        iterations: of BLOCK dimensions of the space each, at one product with A and one with A^T.

    Raises:
        ValueError: if `matrix` has fewer than two dimensions.
    """
    if matrix.dim() < 2:
        raise ValueError(
            f"the spectral norm is of a matrix, not of a tensor of shape {tuple(matrix.shape)}"
        )
    *members, rows, columns = matrix.shape
    a = matrix.reshape(-1, rows, columns)
    with _full_precision(a.device):
        if min(rows, columns) <= BLOCK * iterations:
            images = a if rows <= columns else a.mT
        else:
            images = _krylov(a, iterations)
        gram = torch.bmm(images, images.mT)
        top = _dominant(gram)
        eigenvalue = (gram * top).sum((-2, -1)) / _positive(top.diagonal(dim1=-2, dim2=-1).sum(-1))
    return eigenvalue.sqrt().reshape(members)


def _krylov(a: Tensor, iterations: int) -> Tensor:
    """Q^T A (S, k, in) of A (S, out, in) for Q (S, out, k) of columns that are an orthonormal basis of the Krylov space
    or, where the rank of A makes that smaller than k = BLOCK * iterations, 0."""
    basis = a.new_zeros(*a.shape[:-1], BLOCK * iterations)
    images = a.new_zeros(len(a), BLOCK * iterations, a.shape[-1])
    image = _start(a.shape[-1], BLOCK, a.dtype, a.device).expand(len(a), -1, -1)
    for i in range(0, BLOCK * iterations, BLOCK):
        new, found = torch.bmm(a, image.mT), basis[..., :i]
        for _ in range(2):  # once leaves too much of `found` where the new part is small
            new = torch.linalg.qr(torch.baddbmm(new, found, torch.bmm(found.mT, new), alpha=-1))[0]
        # Once the rank of A is reached, QR makes unit vectors of round-off, which may lie in the space of `found`.
        overlap = torch.linalg.vector_norm(torch.bmm(found.mT, new), dim=-2, keepdim=True)
        new = new * (overlap < 100 * torch.finfo(new.dtype).eps)
        basis[..., i : i + BLOCK] = new
        images[:, i : i + BLOCK] = image = torch.bmm(new.mT, a)
    return images


def _dominant(t: Tensor) -> Tensor:
    """t^65536 up to a factor, for positive semidefinite t (S, k, k): the projector on the eigenvectors of the largest
    eigenvalue, all others more than 1e-4 below it being gone (`torch.linalg.eigh` would synchronise a GPU)."""
    for _ in range(4):
        t = torch.linalg.matrix_power(
            t / _positive(torch.linalg.vector_norm(t, dim=(-2, -1), keepdim=True)), 16
        )
    return t


def _positive(x: Tensor) -> Tensor:
    """To divide by: zeros give 0 / tiny = 0."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


@cache
def _start(n: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random vectors (count, n), always the same."""
    return torch.randn(
        count, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)
    ).to(device, dtype)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor the shortcuts of `torch.set_float32_matmul_precision`."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
