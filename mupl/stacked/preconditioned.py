"""SOAP and full Shampoo of stacked tensors, step for step those of the package `pytorch_optimizer` (version 4.1).

A gradient G (S, *shape) has along each dimension d of size n a matrix `G_d G_d^T` (S, n, n), G_d being G with d first
and all other dimensions as one. Both keep a sum of these, `gram<d>`, and a matrix made of it that is applied along d.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def soap_matrices(shape: Sequence[int], flags: Mapping[str, Any]) -> dict[str, int]:
    """Names and sizes n of SOAP's states (S, n, n): none of vectors and of dimensions above `max_precondition_dim`."""
    sizes = {
        d: n for d, n in enumerate(shape) if len(shape) > 1 and n <= flags["max_precondition_dim"]
    }
    return {f"{kind}{d}": n for kind in ("gram", "basis") for d, n in sizes.items()}


def shampoo_matrices(shape: Sequence[int], flags: Mapping[str, Any]) -> dict[str, int]:
    """Names and sizes n of Shampoo's states (S, n, n)."""
    return {f"{kind}{d}": n for kind in ("gram", "root") for d, n in enumerate(shape)}


def soap(
    w: Tensor, g: Tensor, state: Tensors, n: Tensors, k: int, precondition_frequency: int
) -> None:
    """Adam in the eigenbasis of the averages of `G_d G_d^T` (Vyas et al. 2024); update 0 only finds the basis.

    Every `precondition_frequency` updates one power iteration and a QR decomposition bring the basis up to date. That
    of a gradient's null space is whatever rounding makes it.
    """
    g = g * n["grad"]
    dims = [d for d in range(g.dim() - 1) if f"gram{d}" in state]
    square = state["exp_avg_sq"]
    if k > 0:
        mean = state["exp_avg"].lerp_(g, n["1-beta1"])
        square.lerp_(_rotated(g, state, dims).square(), n["1-beta2"])
        direction = _rotated(mean, state, dims) / (square.sqrt() + n["eps"])
        for d in dims:
            direction = _along(d, state[f"basis{d}"], direction)
        w.addcmul_(direction, -n["lr"] * n["schedule"] * n["correction"])
        w.mul_(1 - n["lr*weight_decay"] * n["schedule"])
    for d in dims:
        gram, basis = state[f"gram{d}"], state[f"basis{d}"]
        gram.lerp_(_gram(d, g), n["1-beta2"].view(-1, 1, 1))
        if k == 0:
            basis.copy_(_eigh(gram)[1].flip(-1))
        elif k % precondition_frequency == 0:
            product = gram @ basis
            order = (basis * product).sum(-2).argsort(descending=True)  # by eigenvalue
            there = order.view(len(order), *[-1 if i == d else 1 for i in range(g.dim() - 1)])
            square.copy_(square.take_along_dim(there, d + 1))
            # in float32, as the library does whatever the dtype
            basis.copy_(torch.linalg.qr(product.take_along_dim(order[:, None], -1).float())[0])


def shampoo(
    w: Tensor,
    g: Tensor,
    state: Tensors,
    n: Tensors,
    k: int,
    preconditioning_compute_steps: int,
    weight_decouple: bool,
) -> None:
    """G times `(matrix_eps I + sum of G_d G_d^T)^(-1/(2 D))` along each of its D dimensions (Gupta et al. 2018).

    The powers are computed every so many updates, and 0 before the first time.
    """
    g = g * n["grad"]
    if weight_decouple:
        w.mul_(1 - n["lr*weight_decay"] * n["schedule"])
    else:
        g = torch.addcmul(g, w, n["weight_decay/mult"])
    direction = g
    for d in range(g.dim() - 1):
        gram, root = state[f"gram{d}"].add_(_gram(d, g)), state[f"root{d}"]
        if (k + 1) % preconditioning_compute_steps == 0:
            values, vectors = _eigh(gram)
            # rounding may make them negative: their size, as of singular values
            powers = (values + n["matrix_eps"].view(-1, 1)).abs() ** (-0.5 / (g.dim() - 1))
            root.copy_((vectors * powers[:, None]) @ vectors.mT)
        direction = _along(d, root, direction)
    w.addcmul_(direction, -n["lr"] * n["schedule"])


def _rotated(x: Tensor, state: Tensors, dims: Sequence[int]) -> Tensor:
    for d in dims:
        x = _along(d, state[f"basis{d}"].mT, x)
    return x


def _along(d: int, matrices: Tensor, x: Tensor) -> Tensor:
    """(S, n, n) times dimension d, of size n, of each of the S tensors x."""
    first = x.movedim(d + 1, 1)
    return (matrices @ first.reshape(*first.shape[:2], -1)).view(first.shape).movedim(1, d + 1)


def _gram(d: int, g: Tensor) -> Tensor:
    first = g.movedim(d + 1, 1)
    rows = first.reshape(*first.shape[:2], -1)
    return rows @ rows.mT


def _eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and vectors; NaN of matrices that are not finite, where torch would raise."""
    finite = x.isfinite().all(-1).all(-1).view(-1, 1, 1)
    values, vectors = torch.linalg.eigh(x.where(finite, 0))
    return values, vectors.where(finite, torch.nan)
