"""Statistics of a tensor, as tensors on its device, and the spectral norm without an SVD."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

# Iterations of `spectral_norm` for a relative error of 1e-3, measured up to 2048 x 3072: of any matrix, say a Gaussian
# one; of one with a gap below its largest singular value, as updates and gradients have; of one with a start, the
# singular vector of the same weights a step ago.
ITERATIONS, ITERATIONS_GAP, ITERATIONS_WARM = 36, 12, 12
EXACT_UP_TO = 128  # smaller dimension of a matrix up to which the whole space costs no more than a Krylov space
CPU_BLOCK, GPU_BLOCK = 2**17, 2**24  # entries: what stays in a core's cache; what keeps a GPU busy in little memory


class Measured:
    """A tensor (S.., *shape), of which the first `members` dimensions S stay, and the reductions that statistics share.

    Each is (S..), computed at most once, in float32 or better, without synchronisation. As a matrix a tensor is
    (S.., fan_out, fan_in): dimensions after the second are flattened into fan_in.

    Args:
        iterations, start: of `spectral_norm`.
    """

    def __init__(self, x: Tensor, members: int = 0, iterations: int = ITERATIONS, start: Tensor | None = None) -> None:
        self.x = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).detach()
        self.members, self.iterations, self.start = members, iterations, start
        self.is_matrix = x.dim() - members >= 2
        self.numel = math.prod(x.shape[members:])
        self.singular_vector: Tensor | None = None  # once `spectral` is known: a start for a tensor that differs little

    @property
    def matrix(self) -> Tensor:
        return self.x.flatten(self.members + 1)

    @cached_property
    def blocks(self) -> tuple[Tensor, ...]:
        """The entries in pieces (S.., n), so that what is made of one stays in a CPU's cache and few numbers are added
        one by one in float32 (`torch.linalg.vector_norm` of 4 million equal numbers is wrong by 2 % there)."""
        entries = self.x.reshape(*self.x.shape[: self.members], -1)
        return entries.split(GPU_BLOCK if self.x.is_cuda else CPU_BLOCK, -1)

    def _reduce(self, partial: Callable[[Tensor, Tensor | None], Tensor], total: Callable[[Tensor], Tensor]) -> Tensor:
        """`total` over the results, along the last dimension, of `partial(block, memory of its size)`."""
        if len(self.blocks) == 1:
            return partial(self.blocks[0], None)
        scratch = torch.empty_like(self.blocks[0])
        return total(torch.stack([partial(block, scratch[..., : block.shape[-1]]) for block in self.blocks], -1))

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
        sigma, self.singular_vector = spectral_norm(self.matrix, self.iterations, self.start)
        return sigma


@dataclass(frozen=True)
class Statistic:
    """A number made of a tensor; `scale(c)` is the factor between that of `c * x` and that of `x`."""

    value: Callable[[Measured], Tensor]
    scale: Callable[[float], float] = abs
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


def measure(x: Measured, statistics: Iterable[str]) -> dict[str, Tensor]:
    """The statistics by name, each (S..); those of matrices are left out for a tensor of fewer than two dimensions."""
    return {s: STATISTICS[s].value(x) for s in statistics if x.is_matrix or not STATISTICS[s].of_matrices}


@torch.no_grad()
def spectral_norm(matrix: Tensor, iterations: int = ITERATIONS, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Largest singular value (S..) of (S.., out, in), from below, and its singular vector on the smaller side.

    The largest |A v| among unit v in the space of v_0, A^T A v_0, (A^T A)^2 v_0, ..: Lanczos' method on A^T A with full
    reorthogonalisation (Golub & Kahan's on A), then Rayleigh and Ritz; for a small matrix, in the whole space. In full
    precision of the matrix's dtype, from a fixed v_0, by a fixed number of steps, without synchronisation.

    Args:
        iterations: products with A and as many with A^T.
        start: singular vector (S.., smaller dimension) of a similar matrix, mixed into v_0.

    Raises:
        ValueError: if `matrix` has fewer than two dimensions.
    """
    if matrix.dim() < 2:
        raise ValueError(f"the spectral norm is of a matrix, not of a tensor of shape {tuple(matrix.shape)}")
    a = matrix if matrix.shape[-1] <= matrix.shape[-2] else matrix.mT
    *members, rows, n = a.shape
    a = a.reshape(-1, rows, n)
    with _full_precision(a.device):
        if n <= EXACT_UP_TO:
            basis, gram = None, torch.bmm(a.mT, a)
        else:
            v = _start(n, a.dtype, a.device).expand(len(a), n, 1)
            if start is not None:
                v = v + start.reshape(len(a), n, 1)
                v = v / _norm(v, -2)
            basis, images = _krylov(a, v, iterations)
            gram = torch.bmm(images, images.mT)
        top = _dominant(gram)
        eigenvalue = (gram * top).sum((-2, -1)) / _positive(top.diagonal(dim1=-2, dim2=-1).sum(-1))
        vector = torch.bmm(top, _start(top.shape[-1], a.dtype, a.device).expand(len(a), -1, 1))
        if basis is not None:
            vector = torch.bmm(basis.mT, vector)
    return eigenvalue.sqrt().reshape(members), (vector / _positive(_norm(vector, -2))).reshape(*members, n)


def _krylov(a: Tensor, v: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Orthonormal rows v_i (S, k, n) from unit v (S, n, 1), and the rows A v_i (S, k, rows) for A (S, rows, n).

    A vector of which only round-off is left, because the rank of A is reached, becomes 0.
    """
    basis = a.new_zeros(len(a), iterations, a.shape[-1])
    images = a.new_zeros(len(a), iterations, a.shape[-2])
    for i in range(iterations):
        basis[:, i] = v[..., 0]
        y = torch.bmm(a, v)
        images[:, i] = y[..., 0]
        if i + 1 < iterations:
            v = torch.bmm(a.mT, y)
            before = _norm(v, -2)
            found = basis[:, : i + 1]
            for _ in range(2):  # once leaves too much where the new part is small
                v = torch.baddbmm(v, found.mT, torch.bmm(found, v), alpha=-1)
            after = _norm(v, -2)
            v = v * ((after > 100 * torch.finfo(v.dtype).eps * before) / _positive(after))
    return basis, images


def _dominant(t: Tensor) -> Tensor:
    """t^65536 up to a factor, for positive semidefinite t (S, k, k): the projector on the eigenvectors of the largest
    eigenvalue, all others more than 1e-4 below it being gone (`torch.linalg.eigh` would synchronise a GPU)."""
    for _ in range(4):
        t = torch.linalg.matrix_power(t / _positive(torch.linalg.vector_norm(t, dim=(-2, -1), keepdim=True)), 16)
    return t


def _sum(x: Tensor) -> Tensor:
    return x.sum(-1)


def _norm(x: Tensor, dim: int = -1) -> Tensor:
    """Euclidean norm over `dim`, which is dropped if it is the last one."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=dim != -1)


def _positive(x: Tensor) -> Tensor:
    """To divide by: zeros give 0 / tiny = 0."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


@cache
def _start(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A unit vector (n, 1) as good as random, always the same."""
    v = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return (v / v.norm()).to(device, dtype)


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
