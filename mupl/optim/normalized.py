"""Any optimizer with updates that are divided by their norm, on the whole space or on a sphere."""

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mupl.errors import ConfigError
from mupl.nn.spectral_norm import positive, spectral_norm
from mupl.optim.base import HasRules
from mupl.optim.orthogonal import SHAPE_FACTORS
from mupl.optim.registry import (
    OptimizerLike,
    optimizer_rules,
    qualified,
    register,
    resolve,
    unwrapped,
)
from mupl.optim.roles import check_roles
from mupl.parametrization.update_kinds import RELATIVES, OptimizerRules, UpdateKind
from mupl.roles import Info, ParamInfo

Number = float | Tensor  # a tensor (S, 1, 1) where members of a stack differ


def frobenius_norm(x: Tensor) -> Tensor:
    """Return the Frobenius norm (S..) of matrices (S.., out, in)."""
    return torch.linalg.vector_norm(x, dim=(-2, -1))


def unit(x: Tensor, norm: Callable[[Tensor], Tensor] = frobenius_norm) -> Tensor:
    """Return matrices (S.., out, in) divided by their norms; 0 for 0."""
    return x / positive(norm(x))[..., None, None]


def on_sphere(w: Tensor, u: Tensor, lr: Number) -> Tensor:
    """Return `R unit(w - lr R unit(u))` with R the Frobenius norm of w, which so stays what it was.

    It is the norm of the initial matrix. lr is a step in relation to it (Hyperball, 2026). Where u
    is 0 the matrix is returned as it is, without rounding.

    Args:
        w, u: matrices (S.., out, in) and the directions against which they move.

    Example:
        >>> w, u = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.5, 0.0]])
        >>> on_sphere(w, u, lr=0.6)
        tensor([[0., 5.]])
    """
    radius = frobenius_norm(w)[..., None, None]
    length = frobenius_norm(u)[..., None, None]
    # by numbers for each matrix, so that few passes go over all entries
    step = torch.where(length == 0, 0, lr * radius / length)
    there = torch.addcmul(w, u, step, value=-1)
    distance = frobenius_norm(there)[..., None, None]
    return there * (radius / positive(distance))


# Each divides an update (S.., out, in) by a norm; "hyperball" moves `on_sphere` besides
NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "spectral": partial(unit, norm=spectral_norm),
    "frobenius": unit,
    "hyperball": unit,
}
_KINDS = {
    "spectral": UpdateKind.NORMALIZED,
    "frobenius": UpdateKind.NORMALIZED,
    "hyperball": UpdateKind.RELATIVE_LOW_RANK,  # `RELATIVE` if the inner optimizer's is orthogonal
}


def moved(
    normalise: str, w: Tensor, u: Tensor, lr: Number, shape_factor: Number, decay: Number
) -> Tensor:
    """Return matrices after one step against the direction u.

    This is `w - decay w - lr shape_factor u / |u|`, or `on_sphere`, where nothing decays.

    Args:
        w, u: (S.., out, in).
        decay: lr times weight decay.
    """
    if normalise == "hyperball":
        return on_sphere(w, u, lr)
    return w * (1 - decay) - lr * shape_factor * NORMALISATIONS[normalise](u)


def _is_normalised(roles: Collection[str], info: Info) -> bool:
    """Whether a tensor is a matrix of one of these roles, in either orientation."""
    if not isinstance(info, ParamInfo) or len(info.copy_shape) < 2 or info.role not in roles:
        return False
    return info.out_first or len(info.copy_shape) == 2


def _kind_of(roles: Collection[str], kind: str, inner: OptimizerRules, info: Info) -> str:
    of_inner = inner.kind_of(info)
    if not _is_normalised(roles, info):
        return of_inner
    # all directions of the matrix, alike
    fills = of_inner in (UpdateKind.ORTHOGONAL, UpdateKind.WHITENED)
    return UpdateKind.RELATIVE if fills and kind in RELATIVES else kind


def _inner_kind_of(roles: Collection[str], inner: OptimizerRules, info: Info) -> str | None:
    return str(inner.kind_of(info)) if _is_normalised(roles, info) else None


@register("normalized")
class Normalized(HasRules):
    """An optimizer whose updates of matrices are divided by their norm; all others are its own.

    The inner optimizer makes its step of such a matrix with learning rate 1 and without weight
    decay; u is what it has subtracted. Then, by `normalise`,

    - "spectral": `w <- w - lr (weight_decay w + sqrt(fan_out / fan_in) u / |u|)`, with the spectral
      norm, so that the update has the RMS->RMS norm lr;
    - "frobenius": the same with the Frobenius norm, so that it has at most that;
    - "hyperball": `w <- R unit(w - lr R unit(u))`, with unit(x) = x / |x|, the Frobenius norm and
      R = |w|, which stays as it was at the start. There is no weight decay.

    Args:
        params: param groups with the keys `inner_kind` and `shape_factor` for those whose updates
            are normalised, as `mupl.optim.groups.param_groups` makes them.
        inner: a name, a torch optimizer class, or a `functools.partial` of one.
        normalise: "spectral", "frobenius" or "hyperball".
        roles: roles of the matrices whose updates are normalised.
        inner_kind: how the updates of `inner` scale, if mupl does not know it.
        eps: of the inner optimizer, if it has one.

    Raises:
        ConfigError: on an unknown word, or if no matrix has one of the roles.

    Example:
        >>> import mupl
        >>> from mupl.models import MLP
        >>> setup = mupl.Setup(
        ...     lambda width: MLP(4, 2, width),
        ...     64,
        ...     base_width=16,
        ...     optimizer=partial(Normalized, inner="sgd", normalise="spectral"),
        ...     lr=0.1,
        ... )
        >>> setup.scales["layers.1.weight"].update_kind, setup.scales["layers.1.weight"].lr
        ('normalized', 0.1)
    """

    @classmethod
    def rules(
        cls,
        inner: OptimizerLike = "adamw",
        normalise: str = "spectral",
        roles: Collection[str] = ("hidden",),
        inner_kind: str | None = None,
        **_: Any,
    ) -> OptimizerRules:
        if normalise not in _KINDS:
            raise ConfigError(
                f"optimizer.normalise={normalise}: must be one of {', '.join(_KINDS)}"
            )
        check_roles(roles)
        of_inner = optimizer_rules(inner, inner_kind)
        kind = _KINDS[normalise]
        factors = {**of_inner.shape_factors, UpdateKind.NORMALIZED: SHAPE_FACTORS["spectral"]}
        return OptimizerRules(
            partial(_kind_of, tuple(roles), kind, of_inner),
            factors,
            of_inner.idle_steps,
            partial(_inner_kind_of, tuple(roles), of_inner),
            {**of_inner.own_decay, **dict.fromkeys(RELATIVES, 0.0)},
            of_inner.settled,
            matrix_eps=of_inner.matrix_eps,
        )

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        inner: OptimizerLike = "adamw",
        normalise: str = "spectral",
        roles: Collection[str] = ("hidden",),
        inner_kind: str | None = None,
        eps: float = 1e-8,
    ) -> None:
        self.rules(inner, normalise, roles, inner_kind)
        constructor = resolve(inner)
        options = {"lr": lr, "weight_decay": weight_decay}
        groups = [group if isinstance(group, dict) else {"params": [group]} for group in params]
        if "eps" in inspect.signature(unwrapped(constructor)[0]).parameters:
            options["eps"] = eps
        else:
            for group in groups:
                group.pop("eps", None)
        normalised = [group for group in groups if group.get("inner_kind") is not None]
        if not normalised:
            raise ConfigError(
                f"optimizer.roles={', '.join(roles)}: the model has no such matrix, so that no "
                "update would be normalised"
            )
        self._normalise = normalise
        with _as_inner(normalised):
            self._inner = constructor(groups, **options)
        own = {"inner": qualified(type(self._inner)), "normalise": normalise}
        # both share the inner optimizer's groups, so that a schedule of one is one of both
        super().__init__(self._inner.param_groups, {**self._inner.defaults, **options, **own})
        self.state = self._inner.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        shared = {"state": self.state, "param_groups": self.param_groups}
        with _as_inner(self._normalised_groups()):
            self._inner.__setstate__(shared)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_inner": self._inner,
            "_normalise": self._normalise,
        }

    def _normalised_groups(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group.get("inner_kind") is not None]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self._normalised_groups()
        batches = [batch for group in groups for batch in _batches(group)]
        with _as_inner(groups):
            self._inner.step()
        for group, weights, before in batches:
            u = before - _matrices(group, weights)
            decay = group["lr"] * group["weight_decay"]
            matrices = moved(self._normalise, before, u, group["lr"], group["shape_factor"], decay)
            after = [x.view_as(w) for x, w in zip(matrices, weights, strict=True)]
            torch._foreach_copy_(weights, after)
        return loss


class _Batch(NamedTuple):
    """Tensors of one param group and shape, and the matrices (S.., out, in) that they are."""

    group: dict[str, Any]
    weights: list[Tensor]
    matrices: Tensor


def _batches(group: dict[str, Any]) -> list[_Batch]:
    """Return the tensors of a group that have gradients, by shape."""
    by_shape: dict[tuple[int, ...], list[Tensor]] = {}
    for w in group["params"]:
        if w.grad is not None:
            by_shape.setdefault(tuple(w.shape), []).append(w)
    return [_Batch(group, weights, _matrices(group, weights)) for weights in by_shape.values()]


def _matrices(group: dict[str, Any], weights: list[Tensor]) -> Tensor:
    """Return a copy of tensors of one shape as matrices (S, out, in), or (S, copies, out, in)."""
    out_dim = group.get("batch_dims", 0)
    return torch.stack([w.flatten(out_dim + 1) for w in weights])


@contextmanager
def _as_inner(groups: list[dict[str, Any]]) -> Iterator[None]:
    """Show groups to the inner optimizer: with its own update kind, lr 1 and no weight decay."""
    keys = ("update_kind", "lr", "weight_decay")
    before = [{key: group[key] for key in keys} for group in groups]
    for group in groups:
        group.update(update_kind=group["inner_kind"], lr=1.0, weight_decay=0.0)
    try:
        yield
    finally:
        for group, own in zip(groups, before, strict=True):
            group.update(own)


register("adamh")(partial(Normalized, inner="adamw", normalise="hyperball"))
register("muonh")(partial(Normalized, inner="muon", normalise="hyperball"))
