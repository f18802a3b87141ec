"""Updates whose singular values are all alike: simplified Shampoo by SVD, and Muon by Newton-Schulz."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mupl.errors import ConfigError
from mupl.optim.base import DirectionOptimizer
from mupl.optim.registry import register
from mupl.parametrization.update_kinds import OptimizerRules
from mupl.roles import ParamInfo, Role

# (a, b, c) of one step s -> a s + b s^3 + c s^5 on singular values. MUON maps all from 0.002 to 1 into [0.68, 1.21] in
# five steps, without converging (Jordan 2024; torch.optim.Muon's); QUINTIC has 1 for a fixed point with two vanishing
# derivatives (Higham 2008, section 8.3), so that three steps of it bring those within 1e-9 of 1.
MUON = (3.4445, -4.7750, 2.0315)
QUINTIC = (15 / 8, -10 / 8, 3 / 8)
SMALLEST = 1e-18  # norm; the squares of smaller ones are lost in float32

# By what to multiply an update with singular values 1, given (fan_out, fan_in), beside lr
SHAPE_FACTORS: dict[str, Callable[[float, float], float]] = {
    # RMS->RMS norm 1 whatever the shape (Yang, Simon & Bernstein 2023)
    "spectral": lambda fan_out, fan_in: math.sqrt(fan_out / fan_in),
    # that, but spectral norm >= 1 (Jordan 2024; "original" in torch.optim.Muon)
    "keller": lambda fan_out, fan_in: math.sqrt(max(1.0, fan_out / fan_in)),
    # RMS of the entries 0.2, as AdamW's often is (Liu et al. 2025)
    "match_rms_adamw": lambda fan_out, fan_in: 0.2 * math.sqrt(max(fan_out, fan_in)),
    # simplified Shampoo as it stands: spectral norm 1
    "none": lambda fan_out, fan_in: 1.0,
}


def accumulate(
    g: Tensor, m: Tensor, momentum: float | Tensor, nesterov: bool
) -> tuple[Tensor, Tensor]:
    """`m <- momentum m + (1 - momentum) g`; returns `momentum m + (1 - momentum) g` if nesterov, else m, and m."""
    m = m.lerp(g, 1 - momentum)
    return g.lerp(m, momentum) if nesterov else m, m


def svd(x: Tensor) -> Tensor:
    """`U V^T` of `x = U S V^T` (.., out, in), of those singular values that are not rounding of 0.

    A direction that x has not is given none: of a zero matrix the result is 0, not an arbitrary rotation. Of one that
    is not finite it is NaN, where `torch.linalg.svd` would raise, so that a run which diverges ends as any other.
    """
    finite = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    u, s, vh = torch.linalg.svd(
        x.where(finite, 0).to(torch.promote_types(x.dtype, torch.float32)), full_matrices=False
    )
    present = s > s[..., :1] * max(x.shape[-2:]) * torch.finfo(s.dtype).eps
    return ((u * present[..., None, :]) @ vh).where(finite, torch.nan).to(x.dtype)


def newton_schulz(
    x: Tensor, coefficients: Sequence[tuple[float, float, float]], dtype: torch.dtype
) -> Tensor:
    """About `U V^T` of `x = U S V^T` (.., out, in), by matrix products alone; of a zero matrix 0.

    x over its Frobenius norm, then `x <- a x + (b A + c A^2) x` with `A = x x^T` for each (a, b, c), in `dtype`.
    """
    y = x.to(dtype).reshape(-1, *x.shape[-2:])
    tall = y.shape[-2] > y.shape[-1]
    y = y.mT if tall else y
    y = y / torch.linalg.matrix_norm(y, keepdim=True).clamp_min(SMALLEST)
    for a, b, c in coefficients:
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return (y.mT if tall else y).reshape(x.shape).to(x.dtype)


METHODS: dict[str, Callable[[Tensor], Tensor]] = {
    "svd": svd,
    "muon": lambda x: newton_schulz(x, 5 * [MUON], torch.bfloat16),
    "accurate": lambda x: newton_schulz(
        x, 5 * [MUON] + 3 * [QUINTIC], torch.promote_types(x.dtype, torch.float32)
    ),
}


def routing(
    method: str = "muon", scale: str = "spectral", roles: Collection[str] = ("hidden",), **_: Any
) -> OptimizerRules:
    """The rules of `Orthogonal` with these arguments.

    Raises:
        ConfigError: on an unknown scale, role or method.
    """
    for key, value, known in (("method", method, METHODS), ("scale", scale, SHAPE_FACTORS)):
        if value not in known:
            raise ConfigError(f"optimizer.{key}={value}: must be one of {', '.join(known)}")
    if unknown := set(roles) - {Role.INPUT, Role.HIDDEN, Role.OUTPUT}:
        raise ConfigError(
            f"optimizer.roles={', '.join(sorted(unknown))}: must be of input, hidden, output"
        )

    return OptimizerRules(partial(_route, tuple(roles)), partial(_shape_factor, scale))


def _route(roles: Collection[str], info: ParamInfo) -> str:
    # tensors that are stored another way round, such as embeddings, are no (fan_out, fan_in) matrix as they stand
    is_matrix = len(info.shape) > 1 and info.out_first
    return "orthogonal" if is_matrix and info.role in roles else "adam"


def _shape_factor(scale: str, update_kind: str, fan_out: float, fan_in: float) -> float:
    return SHAPE_FACTORS[scale](fan_out, fan_in) if update_kind == "orthogonal" else 1.0


@register("muon")
class Orthogonal(DirectionOptimizer):
    """Orthogonal updates for matrices, AdamW for every other tensor, as the key `update_kind` of a param group says.

    A matrix W (fan_out, fan_in), or a convolution's weight as (fan_out, fan_in) with the receptive field in fan_in:
    `w <- w - lr (weight_decay w + factor U V^T)` with `U S V^T` the momentum (see `accumulate`). Momenta of one shape
    are stacked and computed at once. Where all gradients so far were 0 there is no direction, and no update.

    Args:
        params: param groups with the keys `params` and `update_kind` ("orthogonal" or "adam"), as
            `mupl.optim.groups.param_groups` makes them.
        method: U V^T by "svd" (exact; simplified Shampoo), "muon" (five steps of Newton-Schulz in bfloat16) or
            "accurate" (eight in float32). Singular values of at least 0.002 of the Frobenius norm become 1 +- 1e-5,
            0.68 to 1.21 up to rounding, and 1 +- 1e-5; rounding to bfloat16 adds small ones where there were none.
        scale: "spectral", "keller", "match_rms_adamw" or "none": see `SHAPE_FACTORS`.
        roles: of the matrices that get orthogonal updates; says to `routing` what the groups then hold.
        betas, eps: of AdamW, as `torch.optim.AdamW`; `fused`: whether its fused kernel is used.

    Raises:
        ConfigError: on an unknown name, a group without `update_kind`, or if no matrix gets orthogonal updates.
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
        momentum: float = 0.95,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        fused: bool = False,
    ) -> None:
        routing(method, scale, roles)
        options = {
            "method": method,
            "scale": scale,
            "momentum": momentum,
            "nesterov": nesterov,
            "update_kind": None,
        }
        super().__init__(params, lr, weight_decay, **options, betas=betas, eps=eps, fused=fused)
        update_kinds = {group["update_kind"] for group in self.param_groups}
        if update_kinds - {"orthogonal", "adam"}:
            raise ConfigError(
                "optimizer: each param group must say update_kind='orthogonal' or 'adam'"
            )
        if "orthogonal" not in update_kinds:
            raise ConfigError(
                f"optimizer.roles={', '.join(roles)}: the model has no such matrix, so everything would go to AdamW"
            )

    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        (self._orthogonal if group["update_kind"] == "orthogonal" else self._adamw)(group, weights)

    def _orthogonal(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for w, momentum in zip(weights, self._momenta(group, weights), strict=True):
            by_shape.setdefault((len(w), w.numel() // len(w)), []).append((w, momentum))
        for shape, alike in by_shape.items():
            directions = METHODS[group["method"]](
                torch.stack([momentum.reshape(shape) for _, momentum in alike])
            )
            changes = [
                direction.view_as(w) for (w, _), direction in zip(alike, directions, strict=True)
            ]
            torch._foreach_add_(
                [w for w, _ in alike],
                changes,
                alpha=-group["lr"] * SHAPE_FACTORS[group["scale"]](*shape),
            )

    def _momenta(self, group: dict[str, Any], weights: list[Tensor]) -> Sequence[Tensor]:
        """`accumulate` of each, in one kernel for all."""
        for w in weights:
            if not self.state[w]:
                self.state[w]["momentum_buffer"] = torch.zeros_like(w)
        buffers = [self.state[w]["momentum_buffer"] for w in weights]
        gradients = [w.grad for w in weights if w.grad is not None]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        return (
            torch._foreach_lerp(gradients, buffers, group["momentum"])
            if group["nesterov"]
            else buffers
        )

    def _adamw(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for w in weights:
            if not self.state[w]:
                self.state[w].update(
                    step=torch.zeros(
                        (), device=w.device if group["fused"] else None
                    ),  # as torch's kernels want it
                    exp_avg=torch.zeros_like(w),
                    exp_avg_sq=torch.zeros_like(w),
                )
        states = {
            key: [self.state[w][key] for w in weights] for key in ("exp_avg", "exp_avg_sq", "step")
        }
        beta1, beta2 = group["betas"]
        adamw(
            weights, [w.grad for w in weights if w.grad is not None], states["exp_avg"], states["exp_avg_sq"], [],
            states["step"], fused=group["fused"] or None, amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


register("shampoo_svd")(partial(Orthogonal, method="svd", nesterov=False))
