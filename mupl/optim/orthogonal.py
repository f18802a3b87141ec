"""Updates whose singular values are all alike: simplified Shampoo by SVD, Muon by Newton-Schulz."""

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mupl.errors import ConfigError
from mupl.optim.base import DirectionOptimizer
from mupl.optim.registry import register
from mupl.optim.roles import check_roles
from mupl.parametrization.cells import Monomial
from mupl.parametrization.update_kinds import OptimizerRules, largest
from mupl.roles import Info, ParamInfo, Role

# Coefficients (a, b, c) of one step s -> a s + b s^3 + c s^5 on singular values.
# Five steps of MUON map all from 0.002 to 1 into [0.68, 1.21], without converging (Jordan 2024;
# torch.optim.Muon has the same).
MUON = (3.4445, -4.7750, 2.0315)
# 1 is a fixed point of QUINTIC with two vanishing derivatives (Higham 2008, section 8.3): three
# steps bring what MUON has made of singular values within 1e-9 of 1.
QUINTIC = (15 / 8, -10 / 8, 3 / 8)
SMALLEST = 1e-18  # Frobenius norm; the squares of smaller ones are lost in float32


def _cells(*texts: str) -> tuple[Monomial, ...]:
    return tuple(map(Monomial.parse, texts))


# An update with singular values 1 is multiplied by the largest of these cells, beside lr.
SHAPE_FACTORS: dict[str, tuple[Monomial, ...]] = {
    # RMS->RMS norm 1, whatever the shape (Yang, Simon & Bernstein 2023)
    "spectral": _cells("fan_out^1/2*fan_in^-1/2"),
    # the same, but with a spectral norm of at least 1 (Jordan 2024; "original" in torch.optim.Muon)
    "keller": _cells("1", "fan_out^1/2*fan_in^-1/2"),
    # RMS of the entries 0.2, as AdamW's often is (Liu et al. 2025)
    "match_rms_adamw": _cells("0.2*fan_out^1/2", "0.2*fan_in^1/2"),
    # spectral norm 1: simplified Shampoo as it stands
    "none": _cells("1"),
}


def accumulate(
    g: Tensor, m: Tensor, momentum: float | Tensor, nesterov: bool
) -> tuple[Tensor, Tensor]:
    """Update a momentum by a gradient, `m <- momentum m + (1 - momentum) g`.

    Returns:
        The direction, which is `momentum m + (1 - momentum) g` if nesterov and else m; and m.
    """
    m = m.lerp(g, 1 - momentum)
    direction = g.lerp(m, momentum) if nesterov else m
    return direction, m


def svd(x: Tensor) -> Tensor:
    """Return `U V^T` of `x = U S V^T` (.., out, in), of singular values that are not rounding of 0.

    A direction that x lacks is given none: a zero matrix has the result 0, not an arbitrary
    rotation. A matrix that is not finite has the result NaN, where `torch.linalg.svd` would raise,
    so that a run which diverges ends like any other.
    """
    finite = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    work_dtype = torch.promote_types(x.dtype, torch.float32)
    work = x.where(finite, 0).to(work_dtype)
    u, s, vh = torch.linalg.svd(work, full_matrices=False)
    largest_value = s[..., :1]
    rounding = largest_value * max(x.shape[-2:]) * torch.finfo(s.dtype).eps
    is_present = s > rounding
    present_u = u * is_present[..., None, :]
    product = present_u @ vh
    return product.where(finite, torch.nan).to(x.dtype)


def newton_schulz(
    x: Tensor, coefficients: Sequence[tuple[float, float, float]], dtype: torch.dtype
) -> Tensor:
    """Return about `U V^T` of `x = U S V^T` (.., out, in), by matrix products alone; 0 for 0.

    From `y = x / |x|`, with the Frobenius norm, each (a, b, c) makes `y <- a y + (b A + c A^2) y`
    with `A = y y^T`, in `dtype`.
    """
    y = x.to(dtype).reshape(-1, *x.shape[-2:])
    tall = y.shape[-2] > y.shape[-1]
    if tall:  # the smaller of the two Gram matrices
        y = y.mT
    norm = torch.linalg.matrix_norm(y, keepdim=True)
    y = y / norm.clamp_min(SMALLEST)
    for a, b, c in coefficients:
        gram = y @ y.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        y = torch.baddbmm(y, polynomial, y, beta=a)
    if tall:
        y = y.mT
    return y.reshape(x.shape).to(x.dtype)


def _muon(x: Tensor) -> Tensor:
    return newton_schulz(x, 5 * [MUON], torch.bfloat16)


def _accurate(x: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return newton_schulz(x, 5 * [MUON] + 3 * [QUINTIC], dtype)


# Into which matrices a tensor is cut that holds several, such as queries, keys and values
CUTS = ("matrix", "head", "tensor")

METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "svd": svd,
    "muon": _muon,
    "accurate": _accurate,
}


def routing(
    method: str = "muon",
    scale: str = "spectral",
    roles: Collection[str] = ("hidden",),
    per: str = "matrix",
    **_: Any,
) -> OptimizerRules:
    """Return the rules that `Orthogonal` follows with these arguments.

    Raises:
        ConfigError: on an unknown scale, role, method or cut.
    """
    for key, value, known in (
        ("method", method, METHODS),
        ("scale", scale, SHAPE_FACTORS),
        ("per", per, CUTS),
    ):
        if value not in known:
            raise ConfigError(f"optimizer.{key}={value}: must be one of {', '.join(known)}")
    check_roles(roles)
    return OptimizerRules(
        partial(_route, tuple(roles)), {"orthogonal": SHAPE_FACTORS[scale]}, parts_of=cuts(per)
    )


def cuts(per: str) -> Callable[[ParamInfo], tuple[int, ...]]:
    """Return what says into which matrices a tensor is cut along its outputs.

    Args:
        per: "matrix" for those that the description knows, such as queries, keys and values; "head"
            for one a head of attention; "tensor" for none.
    """
    return partial(_parts_of, per)


def _parts_of(per: str, info: ParamInfo) -> tuple[int, ...]:
    if per == "tensor":
        return ()
    if per == "head" and info.head_size:
        size = info.head_size
        return (size,) * (sum(info.parts) // size)
    return info.parts if len(info.parts) > 1 else ()


def _route(roles: Collection[str], info: Info) -> str:
    """Send matrices of these roles to orthogonal updates, everything else to AdamW."""
    return "orthogonal" if is_matrix(info) and info.role in roles else "adam"


def is_matrix(info: Info) -> bool:
    """Whether a tensor is a matrix (fan_out, fan_in), or a hidden one that is stored transposed.

    Several matrices in a tensor, one for each expert, count as one. Embeddings and transposed
    convolutions are none.
    """
    if not isinstance(info, ParamInfo) or len(info.copy_shape) < 2 or info.is_embedding:
        return False
    return info.out_first or (len(info.copy_shape) == 2 and info.role is Role.HIDDEN)


def move_orthogonally(
    group: Mapping[str, Any],
    weights: Sequence[Tensor],
    momenta: Sequence[Tensor],
    cells: Sequence[Monomial],
) -> None:
    """Apply `w <- w - lr (weight_decay w + factor U V^T)`, with `U S V^T` the momentum.

    Matrices of one shape are stacked and computed at once.

    Args:
        group: its `method`, lr and weight decay; `parts`, `transposed` and `batch_dims` say how
            its tensors hold matrices (`mupl.optim.groups.param_groups`).
        cells: the factor of a matrix is the largest of these in its fan_out and fan_in.
    """
    lr = group["lr"]
    torch._foreach_mul_(list(weights), 1 - lr * group["weight_decay"])
    by_shape: dict[tuple[int, ...], tuple[list[Tensor], list[Tensor]]] = {}
    for w, momentum in zip(weights, momenta, strict=True):
        for place, part in zip(matrices(w, group), matrices(momentum, group), strict=True):
            places, parts = by_shape.setdefault(tuple(place.shape), ([], []))
            places.append(place)
            parts.append(part)
    orthogonalize = METHODS[group["method"]]
    for (fan_out, fan_in), (places, parts) in by_shape.items():
        directions = orthogonalize(torch.stack(parts))
        factor = largest(cells, fan_out, fan_in)
        torch._foreach_add_(places, list(directions), alpha=-lr * factor)


def matrices(x: Tensor, group: Mapping[str, Any]) -> list[Tensor]:
    """Return the matrices (fan_out, fan_in) that a tensor of a group holds, as views of it."""
    batch_dims = group.get("batch_dims", 0)
    found: list[Tensor] = []
    copies = x.flatten(0, batch_dims - 1) if batch_dims else [x]
    for copy in copies:
        matrix = copy.mT if group.get("transposed") else copy.view(len(copy), -1)
        if group.get("parts"):
            found += matrix.split(group["parts"])
        else:
            found.append(matrix)
    return found


def momenta(
    group: Mapping[str, Any], weights: Sequence[Tensor], state: MutableMapping[Tensor, Any]
) -> Sequence[Tensor]:
    """Apply `accumulate` to all weights, in one kernel each step; returns the directions."""
    for w in weights:
        if not state[w]:
            state[w]["momentum_buffer"] = torch.zeros_like(w)
    buffers = [state[w]["momentum_buffer"] for w in weights]
    gradients = [w.grad for w in weights if w.grad is not None]
    torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
    if group["nesterov"]:
        return torch._foreach_lerp(gradients, buffers, group["momentum"])
    return buffers


@register("muon")
class Orthogonal(DirectionOptimizer):
    """Orthogonal updates for matrices, AdamW for every other tensor, by a group's `update_kind`.

    A matrix W (fan_out, fan_in) moves by `w <- w - lr (weight_decay w + factor U V^T)` with
    `U S V^T` the momentum (see `accumulate`). A convolution's weight is such a matrix with the
    receptive field in fan_in. A tensor that holds several matrices, such as queries, keys and
    values, or its experts, is cut into these. Momenta of one shape are stacked and computed at
    once. Where all gradients so far were 0 there is no direction, and no update.

    Args:
        params: param groups with the keys `params` and `update_kind` ("orthogonal" or "adam"), as
            `mupl.optim.groups.param_groups` makes them.
        method: how U V^T is computed: by "svd" (exact; simplified Shampoo), "muon" (five steps of
            Newton-Schulz in bfloat16) or "accurate" (eight in float32). Singular values of at least
            0.002 of the Frobenius norm become 1 +- 1e-5, 0.68 to 1.21 up to rounding, and
            1 +- 1e-5; rounding to bfloat16 adds small ones where there were none.
        scale: "spectral", "keller", "match_rms_adamw" or "none": see `SHAPE_FACTORS`.
        roles: roles of the matrices that get orthogonal updates; `routing` makes the groups of it.
        per: whether each "matrix", each "head" of attention or each "tensor" gets singular values
            that are all alike; `routing` makes the groups of it, too.
        betas, eps: as in `torch.optim.AdamW`, for every other tensor.
        fused: whether AdamW's fused kernel is used.

    Raises:
        ConfigError: on an unknown name, a group without `update_kind`, or if no matrix gets
            orthogonal updates.
    """

    rules = staticmethod(routing)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        method: str = "muon",
        scale: str = "spectral",
        roles: Collection[str] = ("hidden",),
        per: str = "matrix",
        momentum: float = 0.95,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        fused: bool = False,
    ) -> None:
        routing(method, scale, roles, per)
        super().__init__(
            params,
            lr,
            weight_decay,
            method=method,
            scale=scale,
            momentum=momentum,
            nesterov=nesterov,
            update_kind=None,
            betas=betas,
            eps=eps,
            fused=fused,
        )
        update_kinds = {group["update_kind"] for group in self.param_groups}
        if update_kinds - {"orthogonal", "adam"}:
            raise ConfigError(
                "optimizer: each param group must say update_kind='orthogonal' or 'adam'"
            )
        if "orthogonal" not in update_kinds:
            raise ConfigError(
                f"optimizer.roles={', '.join(roles)}: the model has no such matrix, so everything "
                "would go to AdamW"
            )
        if per == "head" and not any(group.get("parts") for group in self.param_groups):
            raise ConfigError(
                "optimizer.per=head: it is not known which tensors of the model hold heads; say "
                "per=matrix, or name them in the module (`fused`, see docs/optimizers.md)"
            )

    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        if group["update_kind"] == "orthogonal":
            directions = momenta(group, weights, self.state)
            move_orthogonally(group, weights, directions, SHAPE_FACTORS[group["scale"]])
        else:
            self._adamw(group, weights)

    def _adamw(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        fused = group["fused"] or None
        for w in weights:
            if not self.state[w]:
                device = w.device if fused else None  # where torch's kernels want it
                self.state[w]["step"] = torch.zeros((), device=device)
                self.state[w]["exp_avg"] = torch.zeros_like(w)
                self.state[w]["exp_avg_sq"] = torch.zeros_like(w)
        beta1, beta2 = group["betas"]
        adamw(
            weights,
            [w.grad for w in weights if w.grad is not None],
            [self.state[w]["exp_avg"] for w in weights],
            [self.state[w]["exp_avg_sq"] for w in weights],
            [],  # AMSGrad's maxima
            [self.state[w]["step"] for w in weights],
            fused=fused,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


register("shampoo_svd")(partial(Orthogonal, method="svd", nesterov=False))
