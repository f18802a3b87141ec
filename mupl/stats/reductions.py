"""Statistics of a tensor, as tensors on its device, and the spectral norm without an SVD."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

# Iterations of `spectral_norm` that give a relative error of 1e-3 up to 2048 x 3072, as measured
ITERATIONS = 11  # of any matrix, say a Gaussian one
ITERATIONS_GAP = 3  # of one with a gap below its largest singular values: updates, gradients
# Vectors that `spectral_norm` multiplies at once. A CPU needs only twice the time of one vector for
# 16, where the matrix is too large for its cache.
BLOCK = 16
CPU_ENTRIES = 2**17  # that are reduced at once: what stays in a core's cache
GPU_ENTRIES = 2**24  # enough to keep a GPU busy, in little memory


class TensorReductions:
    """The reductions of a tensor that its statistics share, each computed at most once.

    A reduction has shape (S..), the leading member dimensions of the tensor (S.., *shape). It is
    computed in float32 or better, without synchronisation. As a matrix a tensor is
    (S.., fan_out, fan_in): dimensions after the second are flattened into fan_in.

    Args:
        x: the tensor (S.., *shape).
        members: number of leading dimensions S.
        iterations: of `spectral_norm`.
    """

    def __init__(self, x: Tensor, members: int = 0, iterations: int = ITERATIONS) -> None:
        self.x = x.detach()
        if x.dtype in (torch.float16, torch.bfloat16):
            self.x = self.x.float()
        self.members = members
        self.iterations = iterations
        self.is_matrix = x.dim() - members >= 2
        self.numel = math.prod(x.shape[members:])

    @property
    def matrix(self) -> Tensor:
        """The tensor as (S.., fan_out, fan_in)."""
        return self.x.flatten(self.members + 1)

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
        return spectral_norm(self.matrix, self.iterations)


def _sum(x: Tensor) -> Tensor:
    return x.sum(-1)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


@dataclass(frozen=True)
class Statistic:
    """A number made of a tensor.

    Args:
        value: the number, from the tensor's reductions.
        scale: `c ->` the factor between the statistic of `c * x` and that of `x`; c is a number, or
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
    return (x.frobenius / _positive(x.spectral)) ** 2


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
    # sum s_i^2 / s_1^2, between 1 and the rank; 0 for a zero matrix
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


@torch.no_grad()
def spectral_norm(matrix: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """The largest singular value (S..) of a matrix A (S.., out, in), approximated from below.

    This is the largest |A^T u| among unit vectors u in the space of A P, (A A^T) A P,
    (A A^T)^2 A P, ... for a random P (in, BLOCK): block Krylov (Musco & Musco 2015, algorithm 2).
    Where A is as small as that space, u may be any unit vector, and the value is exact. It is
    computed in full precision of the matrix's dtype, with the same P always, by a fixed number of
    steps, without synchronisation.

    Args:
        matrix: (S.., out, in).
        iterations: number of terms A P, (A A^T) A P, ..., each of BLOCK dimensions and at the cost
            of a product with A and one with A^T.

    Raises:
        ValueError: if `matrix` has fewer than two dimensions.

    >>> spectral_norm(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
    tensor(3.)
    """
    if matrix.dim() < 2:
        shape = tuple(matrix.shape)
        raise ValueError(f"the spectral norm is of a matrix, not of a tensor of shape {shape}")
    *members, rows, columns = matrix.shape
    a = matrix.reshape(-1, rows, columns)
    with _full_precision(a.device):
        if min(rows, columns) > BLOCK * iterations:
            images = _krylov_images(a, iterations)
        else:
            images = a if rows <= columns else a.mT
        gram = torch.bmm(images, images.mT)
        projector = _dominant_projector(gram)
        diagonal = projector.diagonal(dim1=-2, dim2=-1)
        rank = diagonal.sum(-1)
        total = (gram * projector).sum((-2, -1))
        eigenvalue = total / _positive(rank)
    return eigenvalue.sqrt().reshape(members)


def _krylov_images(a: Tensor, iterations: int) -> Tensor:
    """The images Q^T A (S, k, in) of an orthonormal basis Q (S, out, k) of the Krylov space of A.

    k is BLOCK * iterations. Where the rank of A (S, out, in) makes the space smaller than that, the
    superfluous columns of Q are 0.
    """
    members, rows, columns = a.shape
    size = BLOCK * iterations
    basis = a.new_zeros(members, rows, size)
    images = a.new_zeros(members, size, columns)
    start = _start(columns, BLOCK, a.dtype, a.device)
    image = start.expand(members, -1, -1)
    for i in range(0, size, BLOCK):
        found = basis[..., :i]
        product = torch.bmm(a, image.mT)
        new = _orthonormal(product, found)
        image = torch.bmm(new.mT, a)
        basis[..., i : i + BLOCK] = new
        images[:, i : i + BLOCK] = image
    return images


def _orthonormal(new: Tensor, found: Tensor) -> Tensor:
    """Orthonormal columns that span what `new` (S, n, BLOCK) has outside of `found` (S, n, i).

    Columns for which nothing is left are 0.
    """
    for _ in range(2):  # once leaves too much of `found` where the new part is small
        shares = torch.bmm(found.mT, new)
        rest = torch.baddbmm(new, found, shares, alpha=-1)
        new, _ = torch.linalg.qr(rest)
    # Of nothing but round-off QR makes unit vectors all the same, which may lie within `found`.
    shares = torch.bmm(found.mT, new)
    overlap = torch.linalg.vector_norm(shares, dim=-2, keepdim=True)
    limit = 100 * torch.finfo(new.dtype).eps
    return new * (overlap < limit)


def _dominant_projector(t: Tensor) -> Tensor:
    """The projector on the eigenvectors of the largest eigenvalue, up to a factor.

    This is t^65536 for positive semidefinite t (S, k, k): eigenvalues more than 1e-4 below the
    largest one are gone. (`torch.linalg.eigh` would synchronise a GPU.)
    """
    for _ in range(4):
        norm = torch.linalg.vector_norm(t, dim=(-2, -1), keepdim=True)
        t = t / _positive(norm)
        t = torch.linalg.matrix_power(t, 16)
    return t


def _positive(x: Tensor) -> Tensor:
    """A denominator that is never 0, so that 0 / 0 gives 0."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


@cache
def _start(n: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random vectors (count, n), always the same."""
    generator = torch.Generator().manual_seed(n)
    vectors = torch.randn(count, n, dtype=torch.float64, generator=generator)
    return vectors.to(device, dtype)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Switch off autocast and the shortcuts of `torch.set_float32_matmul_precision`."""
    backends: list[Any] = [torch.backends.cuda.matmul]
    backends.append(torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
