"""The directions of SOAP and full Shampoo, step for step as in `pytorch_optimizer` (version 4.1).

A gradient G (S, *shape) has a Gram matrix `G_d G_d^T` (S, n, n) along each dimension d of size n,
where G_d is G with d first and all other dimensions flattened. Both optimizers keep a sum or
average of these, `gram<d>`, and a matrix made of it that they apply along d. In all functions d
counts the dimensions of one member's tensor.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Options = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]


def soap_matrices(shape: Sequence[int], options: Options) -> Shapes:
    """Names of SOAP's states (S, n, n) and their shapes but for S.

    Vectors have none, and neither have sides above `max_precondition_dim`.
    """
    shapes: Shapes = {}
    for d, n in enumerate(shape):
        if len(shape) > 1 and n <= options["max_precondition_dim"]:
            shapes[f"gram{d}"] = (n, n)
            shapes[f"basis{d}"] = (n, n)
    return shapes


def shampoo_matrices(shape: Sequence[int], options: Options) -> Shapes:
    """Names of Shampoo's states (S, n, n) and their shapes but for S."""
    shapes: Shapes = {}
    for d, n in enumerate(shape):
        shapes[f"gram{d}"] = (n, n)
        shapes[f"root{d}"] = (n, n)
    return shapes


def adam_corrections(options: Options, k: int) -> dict[str, float]:
    """Return what Adam's moving averages are updated and corrected by at update k = 0, 1, ..."""
    beta1, beta2 = options["betas"]
    return {
        "1-beta1": 1 - beta1,
        "1-beta2": 1 - beta2,
        "1/correction1": 1 / (1 - beta1 ** (k + 1)),
        "rsqrt_correction2": 1 / math.sqrt(1 - beta2 ** (k + 1)),
    }


def soap_corrections(options: Options, k: int) -> dict[str, float]:
    """Adam's bias corrections, one step late: SOAP's first update only initialises its basis."""
    adam = adam_corrections(options, max(k - 1, 0))
    return {
        "1-beta1": adam["1-beta1"],
        "1-beta2": adam["1-beta2"],
        "correction": adam["1/correction1"] / adam["rsqrt_correction2"],
    }


def soap_arguments(options: Options, k: int) -> dict[str, Any]:
    return {"first": k == 0, "basis_is_due": soap_basis_is_due(options, k)}


def _no_scalars(options: Options, k: int) -> dict[str, float]:
    return {}


def shampoo_arguments(options: Options, k: int) -> dict[str, Any]:
    return {"roots_are_due": shampoo_roots_are_due(options, k)}


def soap_basis_is_due(options: Options, k: int) -> bool:
    """Whether update k computes SOAP's bases, by decompositions that wait for the host."""
    return k % options["precondition_frequency"] == 0


def shampoo_roots_are_due(options: Options, k: int) -> bool:
    """Whether update k computes Shampoo's roots, by decompositions that wait for the host."""
    return (k + 1) % options["preconditioning_compute_steps"] == 0


def soap_direction(
    g: Tensor,
    state: Tensors,
    eps: Tensor,
    step: Tensors,
    *,
    first: bool,
    basis_is_due: bool,
) -> Tensor:
    """Return Adam's direction in the eigenbasis of the averages of `G_d G_d^T` (Vyas et al. 2024).

    The first update only finds the basis, and is 0. Later one power iteration and a QR
    decomposition bring it up to date. Inside the null space of a gradient it is whatever rounding
    makes it.
    """
    dims = [d for d in range(g.dim() - 1) if f"gram{d}" in state]
    direction = torch.zeros_like(g) if first else _soap_direction(g, state, eps, step, dims)
    for d in dims:
        state[f"gram{d}"].lerp_(_gram(d, g), step["1-beta2"].view(-1, 1, 1))
        if first:
            vectors = _eigh(state[f"gram{d}"])[1]
            state[f"basis{d}"].copy_(vectors.flip(-1))
        elif basis_is_due:
            _renew_basis(d, state)
    return direction


def _soap_direction(
    g: Tensor,
    state: Tensors,
    eps: Tensor,
    step: Tensors,
    dims: Sequence[int],
) -> Tensor:
    mean = state["exp_avg"].lerp_(g, step["1-beta1"])
    rotated = _rotate(g, state, dims)
    square = state["exp_avg_sq"].lerp_(rotated.square(), step["1-beta2"])
    direction = _rotate(mean, state, dims) / (square.sqrt() + eps)
    for d in dims:
        direction = _apply_along(d, state[f"basis{d}"], direction)
    return direction * step["correction"]


def _renew_basis(d: int, state: Tensors) -> None:
    """One step of orthogonal iteration to the eigenvectors of `gram<d>`, by eigenvalue."""
    basis = state[f"basis{d}"]
    square = state["exp_avg_sq"]
    product = state[f"gram{d}"] @ basis
    eigenvalues = (basis * product).sum(-2)
    order = eigenvalues.argsort(descending=True)
    along_d = [1] * square.dim()
    along_d[0] = len(order)
    along_d[d + 1] = -1
    square.copy_(square.take_along_dim(order.view(along_d), d + 1))
    columns = product.take_along_dim(order[:, None], -1)
    # in float32, as the library does whatever the dtype
    basis.copy_(torch.linalg.qr(columns.float())[0])


def shampoo_direction(
    g: Tensor,
    state: Tensors,
    matrix_eps: Tensor,
    step: Tensors,
    *,
    roots_are_due: bool,
) -> Tensor:
    """Return the direction of full Shampoo (Gupta et al. 2018).

    It is `(matrix_eps I + sum of G_d G_d^T)^(-1/(2 D))` applied along each of the D dimensions of
    G. These roots are 0 before the first time that they are due.
    """
    num_dims = g.dim() - 1
    direction = g
    for d in range(num_dims):
        gram = state[f"gram{d}"].add_(_gram(d, g))
        root = state[f"root{d}"]
        if roots_are_due:
            values, vectors = _eigh(gram)
            shifted = values + matrix_eps.view(-1, 1)
            # rounding may make eigenvalues negative; the library takes singular values, hence their
            # size
            powers = shifted.abs() ** (-0.5 / num_dims)
            root.copy_((vectors * powers[:, None]) @ vectors.mT)
        direction = _apply_along(d, root, direction)
    return direction


def _rotate(
    x: Tensor,
    state: Tensors,
    dims: Sequence[int],
) -> Tensor:
    """x in the bases of the dimensions `dims`."""
    for d in dims:
        x = _apply_along(d, state[f"basis{d}"].mT, x)
    return x


def _apply_along(
    d: int,
    matrices: Tensor,
    x: Tensor,
) -> Tensor:
    """Multiply dimension d, of size n, of each of the S tensors x by its matrix of (S, n, n)."""
    first = x.movedim(d + 1, 1)
    product = matrices @ first.reshape(*first.shape[:2], -1)
    return product.view(first.shape).movedim(1, d + 1)


def _gram(d: int, g: Tensor) -> Tensor:
    """`G_d G_d^T` (S, n, n)."""
    first = g.movedim(d + 1, 1)
    rows = first.reshape(*first.shape[:2], -1)
    return rows @ rows.mT


def _eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors.

    They are NaN for matrices that are not finite, where torch would raise.
    """
    finite = x.isfinite().all(-1).all(-1).view(-1, 1, 1)
    values, vectors = torch.linalg.eigh(x.where(finite, 0))
    return values, vectors.where(finite, torch.nan)


@dataclass(frozen=True)
class Preconditioner:
    """A way to make a direction of stacked gradients (S, *shape), by matrices along their sides.

    Args:
        direction: `(G, state, eps, step, **host_arguments) -> U`, which changes `state`.
        eps: the name of the hyperparameter that `direction` takes as eps.
        step_scalars: `(options, k) ->` what `step` holds at update k = 0, 1, ...
        host_arguments: `(options, k) ->` arguments of `direction` that are no tensors.
        matrices: `(shape, options) ->` names of the matrices (S, n, n) in the state, and (n, n).
        needs_host: `(options, k) ->` whether update k decomposes matrices.
        buffers: names of the tensors (S, *shape) in the state.
    """

    direction: Callable[..., Tensor]
    eps: str
    step_scalars: Callable[[Options, int], dict[str, float]]
    host_arguments: Callable[[Options, int], dict[str, Any]]
    matrices: Callable[[Sequence[int], Options], Shapes]
    needs_host: Callable[[Options, int], bool]
    buffers: tuple[str, ...] = ()


SOAP = Preconditioner(
    soap_direction,
    "eps",
    soap_corrections,
    soap_arguments,
    soap_matrices,
    soap_basis_is_due,
    buffers=("exp_avg", "exp_avg_sq"),
)
SHAMPOO = Preconditioner(
    shampoo_direction,
    "matrix_eps",
    _no_scalars,
    shampoo_arguments,
    shampoo_matrices,
    shampoo_roots_are_due,
)
