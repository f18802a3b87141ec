"""SOAP and full Shampoo of stacked tensors, step for step as in `pytorch_optimizer` (version 4.1).

A gradient G (S, *shape) has a Gram matrix `G_d G_d^T` (S, n, n) along each dimension d of size n,
where G_d is G with d first and all other dimensions flattened. Both optimizers keep a sum or
average of these, `gram<d>`, and a matrix made of it that they apply along d. In all functions d
counts the dimensions of one member's tensor.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Options = Mapping[str, Any]


def soap_matrices(shape: Sequence[int], options: Options) -> dict[str, int]:
    """Names and sizes n of SOAP's states (S, n, n).

    Vectors have none, and neither have sides above `max_precondition_dim`.
    """
    sizes: dict[str, int] = {}
    for d, n in enumerate(shape):
        if len(shape) > 1 and n <= options["max_precondition_dim"]:
            sizes[f"gram{d}"] = n
            sizes[f"basis{d}"] = n
    return sizes


def shampoo_matrices(shape: Sequence[int], options: Options) -> dict[str, int]:
    """Names and sizes n of Shampoo's states (S, n, n)."""
    sizes: dict[str, int] = {}
    for d, n in enumerate(shape):
        sizes[f"gram{d}"] = n
        sizes[f"root{d}"] = n
    return sizes


def soap_basis_is_due(options: Options, k: int) -> bool:
    """Whether update k computes SOAP's bases, by decompositions that wait for the host."""
    return k % options["precondition_frequency"] == 0


def shampoo_roots_are_due(options: Options, k: int) -> bool:
    """Whether update k computes Shampoo's roots, by decompositions that wait for the host."""
    return (k + 1) % options["preconditioning_compute_steps"] == 0


def soap(
    w: Tensor,
    g: Tensor,
    state: Tensors,
    scalars: Tensors,
    step: Tensors,
    *,
    first: bool,
    basis_is_due: bool,
) -> None:
    """Adam in the eigenbasis of the averages of `G_d G_d^T` (Vyas et al. 2024).

    The first update only finds the basis. Later one power iteration and a QR decomposition bring it
    up to date. Inside the null space of a gradient it is whatever rounding makes it.
    """
    g = g * scalars["c"]
    dims = [d for d in range(g.dim() - 1) if f"gram{d}" in state]
    if not first:
        _soap_step(w, g, state, scalars, step, dims)
    for d in dims:
        state[f"gram{d}"].lerp_(_gram(d, g), step["1-beta2"].view(-1, 1, 1))
        if first:
            vectors = _eigh(state[f"gram{d}"])[1]
            state[f"basis{d}"].copy_(vectors.flip(-1))
        elif basis_is_due:
            _renew_basis(d, state)


def _soap_step(
    w: Tensor,
    g: Tensor,
    state: Tensors,
    scalars: Tensors,
    step: Tensors,
    dims: Sequence[int],
) -> None:
    mean = state["exp_avg"].lerp_(g, step["1-beta1"])
    rotated = _rotate(g, state, dims)
    square = state["exp_avg_sq"].lerp_(rotated.square(), step["1-beta2"])
    direction = _rotate(mean, state, dims) / (square.sqrt() + scalars["eps"])
    for d in dims:
        direction = _apply_along(d, state[f"basis{d}"], direction)
    w.addcmul_(direction, -scalars["lr"] * step["schedule"] * step["correction"])
    w.mul_(1 - scalars["lr*weight_decay"] * step["schedule"])


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


def shampoo(
    w: Tensor,
    g: Tensor,
    state: Tensors,
    scalars: Tensors,
    step: Tensors,
    *,
    roots_are_due: bool,
    weight_decouple: bool,
) -> None:
    """Full Shampoo (Gupta et al. 2018).

    Apply `(matrix_eps I + sum of G_d G_d^T)^(-1/(2 D))` along each of the D dimensions of G. These
    roots are 0 before the first time that they are due.
    """
    g = g * scalars["c"]
    if weight_decouple:
        w.mul_(1 - scalars["lr*weight_decay"] * step["schedule"])
    else:
        g = torch.addcmul(g, w, scalars["weight_decay/mult"])
    num_dims = g.dim() - 1
    direction = g
    for d in range(num_dims):
        gram = state[f"gram{d}"].add_(_gram(d, g))
        root = state[f"root{d}"]
        if roots_are_due:
            values, vectors = _eigh(gram)
            shifted = values + step["matrix_eps"].view(-1, 1)
            # rounding may make eigenvalues negative; the library takes singular values, hence their
            # size
            powers = shifted.abs() ** (-0.5 / num_dims)
            root.copy_((vectors * powers[:, None]) @ vectors.mT)
        direction = _apply_along(d, root, direction)
    w.addcmul_(direction, -scalars["lr"] * step["schedule"])


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
