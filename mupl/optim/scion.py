"""Scion: each tensor moves to the point of a norm's ball that lies furthest down its momentum."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mupl.errors import ConfigError
from mupl.optim.base import DirectionOptimizer
from mupl.optim.elementwise import Number
from mupl.optim.orthogonal import (
    SHAPE_FACTORS,
    cuts,
    is_matrix,
    momenta,
    move_orthogonally,
    routing,
)
from mupl.optim.registry import register
from mupl.parametrization.cells import Monomial
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind, largest
from mupl.roles import Info, Role

KINDS = (UpdateKind.ORTHOGONAL, UpdateKind.SIGN, UpdateKind.ADAM)


def unit_rows(x: Tensor) -> Tensor:
    """Return x with each row, along the last dimension, divided by its RMS; 0 for rows of 0.

    Example:
        >>> unit_rows(torch.tensor([[3.0, -3.0], [0.0, 0.0]]))
        tensor([[ 1., -1.],
                [ 0.,  0.]])
    """
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    tiny = torch.finfo(x.dtype).tiny
    return x / size.clamp_min(tiny) * x.shape[-1] ** 0.5


def unit_rows_momentum(g: Tensor, m: Tensor, momentum: Number) -> tuple[Tensor, Tensor]:
    """Rows of the momentum over their RMS: `m <- momentum m + (1 - momentum) g`.

    Returns `unit_rows(m)` and m.
    """
    m = m.lerp(g, 1 - momentum)
    return unit_rows(m), m


def _kind_of(info: Info) -> UpdateKind:
    if is_matrix(info):
        return UpdateKind.SIGN if info.role is Role.OUTPUT else UpdateKind.ORTHOGONAL
    return UpdateKind.ADAM


@register("scion")
class Scion(DirectionOptimizer):
    """Scion (Pethick et al. 2025, arXiv 2502.07529): `w <- (1 - lr) w - lr rho u`.

    u is made of the momentum M, by what the tensor is:

    - a matrix: `sqrt(fan_out / fan_in) U V^T`, where `U S V^T = M`;
    - a matrix of role output: `sign(M) / fan_in`;
    - an embedding, a vector and what is neither: `unit_rows(M)`.

    `w` stays in the ball of radius rho of the norm that belongs to u, or goes there. Where lr is
    scaled with width, so is the radius; the share lr that w loses is the same at all widths.

    Args:
        params: param groups with the keys `params` and `update_kind` ("orthogonal", "sign" or
            "adam"), as `mupl.optim.groups.param_groups` makes them.
        weight_decay: where not constrained, as in AdamW.
        matrix_radius, readout_radius, other_radius: rho.
        constrained: whether w loses the share lr of itself at each step. It takes no other weight
            decay.
        method, per: see `mupl.optim.Orthogonal`.

    Raises:
        ConfigError: on an unknown word, a radius that is not positive, or a group without
            `update_kind`.
    """

    @classmethod
    def rules(
        cls,
        matrix_radius: float = 50.0,
        readout_radius: float = 3000.0,
        other_radius: float = 1.0,
        constrained: bool = True,
        method: str = "muon",
        per: str = "matrix",
        **_: Any,
    ) -> OptimizerRules:
        routing(method, per=per)
        radii = {"matrix": matrix_radius, "readout": readout_radius, "other": other_radius}
        for name, radius in radii.items():
            if not radius > 0:
                raise ConfigError(f"optimizer.{name}_radius={radius}: must be a number > 0")
        (spectral,) = SHAPE_FACTORS["spectral"]
        factors: dict[str, Sequence[Monomial]] = {
            UpdateKind.ORTHOGONAL: (Monomial(matrix_radius) * spectral,),
            UpdateKind.SIGN: (Monomial(readout_radius) * Monomial.parse("1/fan_in"),),
            UpdateKind.ADAM: (Monomial(other_radius),),
        }
        own_decay = dict.fromkeys(map(str, KINDS), 1.0) if constrained else {}
        return OptimizerRules(_kind_of, factors, own_decay=own_decay, parts_of=cuts(per))

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        matrix_radius: float = 50.0,
        readout_radius: float = 3000.0,
        other_radius: float = 1.0,
        constrained: bool = True,
        momentum: float = 0.9,
        method: str = "muon",
        per: str = "matrix",
    ) -> None:
        radii = (matrix_radius, readout_radius, other_radius)
        self._factors = self.rules(*radii, constrained, method, per).shape_factors
        options = {"method": method, "momentum": momentum, "nesterov": False, "update_kind": None}
        super().__init__(params, lr, weight_decay, **options)
        if any(group["update_kind"] not in KINDS for group in self.param_groups):
            raise ConfigError(
                f"optimizer: each param group must say update_kind, one of {', '.join(KINDS)}"
            )

    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        cells = self._factors[group["update_kind"]]
        directions = momenta(group, weights, self.state)
        if group["update_kind"] == UpdateKind.ORTHOGONAL:
            move_orthogonally(group, weights, directions, cells)
            return
        lr = group["lr"]
        of_tensor = torch.sign if group["update_kind"] == UpdateKind.SIGN else unit_rows
        for w, momentum in zip(weights, directions, strict=True):
            shape = w.shape[group.get("batch_dims", 0) :]
            fan_out = shape[0] if shape else 1
            fan_in = shape.numel() // fan_out
            factor = largest(cells, fan_out, fan_in)
            w.mul_(1 - lr * group["weight_decay"])
            w.sub_(of_tensor(momentum), alpha=lr * factor)
