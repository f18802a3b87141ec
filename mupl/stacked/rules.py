"""How a stack updates its members' weights under each optimizer that it knows.

A member has a weight w with a multiplier, and the stack holds the effective weight `W = mult * w`.
Let G be the gradient of W; then the gradient that the member's own optimizer sees is `c G`, where
`c = mult * grad`. By the abc-symmetry (Tensor Programs V, Lemma J.1) an update of w is one of W
under other numbers: the `scalars` of a rule.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from mupl.optim.blocked import (
    Blocked,
    blocked_direction,
    blocked_matrices,
    blocked_step,
    buffers_of,
)
from mupl.optim.elementwise import Elementwise, sign_momentum
from mupl.optim.normalized import Normalized, moved
from mupl.optim.orthogonal import METHODS, accumulate
from mupl.optim.preconditioned import (
    SHAMPOO,
    SOAP,
    Preconditioner,
    Shapes,
    Tensors,
    adam_corrections,
)
from mupl.optim.registry import qualified, resolve, unwrapped
from mupl.optim.scion import unit_rows_momentum
from mupl.parametrization.scales import Scale
from mupl.parametrization.update_kinds import ROTATIONS, UpdateKind

Scalars = dict[str, float]
Options = Mapping[str, Any]
Layout = Literal["entries", "matrix", "tensor"]
Direction = Callable[..., tuple[Tensor, ...]]


class NotStackable(Exception):
    """Says why something cannot be trained as a member of a stack."""


def _no_matrices(shape: Sequence[int], options: Options) -> Shapes:
    return {}


def _no_arguments(options: Options, k: int) -> dict[str, Any]:
    return {}


def _never(options: Options, k: int) -> bool:
    return False


@dataclass(frozen=True)
class StackedRule:
    """How the S members' effective weights W of one tensor are updated from their gradients G.

    Args:
        update: `(W, G, state, scalars, step, **host_arguments)`, in place. `scalars` belong to the
            tensor, `step` to the number of the update; both are (S, 1, ...), as many dimensions as
            W.
        scalars: `scale ->` what `scalars` holds for a member. A weight decay ("l2" or "decay") that
            is 0 for all members is left out.
        step_scalars: `(options, k) ->` what `step` holds for a member at update k = 0, 1, ...,
            beside its "schedule".
        buffers: names of the tensors of W's shape that the rule keeps, 0 at first.
        matrices: `(shape, options) ->` names and shapes, but for S, of the other tensors that it
            keeps, 0 at first.
        host_arguments: `(options, k) ->` arguments of `update` that are no tensors, which all
            members share.
        layout: of W in `update`: "entries" is (S, n), for rules that move each entry by itself;
            "matrix" is (S, out, in); "tensor" is (S, *shape).
        needs_host: `(options, k) ->` whether update k waits for the host, so that no CUDA graph can
            hold it.
        by_copy: whether each matrix of a tensor that holds several, such as experts, is
            moved as if it were one of another member. Not needed where entries move by themselves.
    """

    update: Callable[..., None]
    scalars: Callable[[Scale], Scalars]
    step_scalars: Callable[[Options, int], Scalars]
    buffers: tuple[str, ...] = ()
    matrices: Callable[[Sequence[int], Options], Shapes] = _no_matrices
    host_arguments: Callable[[Options, int], dict[str, Any]] = _no_arguments
    layout: Layout = "entries"
    needs_host: Callable[[Options, int], bool] = _never
    by_copy: bool = False

    def states(self, shape: Sequence[int], options: Options) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what the rule keeps of one member's tensor."""
        shapes = {name: tuple(shape) for name in self.buffers}
        return shapes | self.matrices(shape, options)

    def view_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape in which `update` takes a tensor (S, *shape); -1 stands for what is left."""
        if self.layout == "entries":
            return shape[0], -1
        if self.layout == "matrix":
            return shape[0], shape[1], -1
        return tuple(shape)


@dataclass(frozen=True)
class Stackable:
    """An optimizer that a stack knows.

    Args:
        rules: by update kind.
        options: arguments of its constructor in which members may differ.
        shared_options: those in which they must agree.
        normalise: how updates with an inner kind are normalised (`mupl.optim.normalized`).
    """

    rules: Mapping[str, StackedRule]
    options: tuple[str, ...]
    shared_options: tuple[str, ...] = ()
    normalise: str = ""

    def rule(self, name: str, scales: Sequence[Scale]) -> StackedRule:
        """Return the rule for a tensor with these scales in the members.

        Raises:
            NotStackable: if members need different ones, or there is none.
        """
        kinds = sorted({scale.inner_kind or scale.update_kind for scale in scales})
        if len(kinds) > 1 or len({scale.update_kind for scale in scales}) > 1:
            raise NotStackable(
                f"{name}: members differ in the kind of its updates: {', '.join(kinds)}"
            )
        if kinds[0] not in self.rules:
            raise NotStackable(
                f"{name}: a stack knows no updates of the kind {kinds[0]} by this optimizer"
            )
        rule = self.rules[kinds[0]]
        first = scales[0]
        if first.inner_kind is not None:
            if first.batch_dims and not (rule.by_copy or rule.layout == "entries"):
                raise NotStackable(f"{name}: a stack knows the updates of one matrix a tensor only")
            return _normalised(rule, self.normalise)
        if len({scale.parts for scale in scales}) > 1:
            raise NotStackable(f"{name}: members cut it into different matrices")
        if rule.layout == "matrix" and (first.parts or first.transposed):
            return _cut(rule, first.parts, first.transposed)
        return rule


def _decay(
    w: Tensor,
    scalars: Tensors,
    step: Tensors,
) -> None:
    if "decay" in scalars:
        w.mul_(1 - scalars["decay"] * step["schedule"])


def _with_l2(
    w: Tensor,
    g: Tensor,
    scalars: Tensors,
) -> Tensor:
    if "l2" in scalars:
        return torch.addcmul(g, w, scalars["l2"])
    return g


# SGD


def _sgd(
    w: Tensor,
    g: Tensor,
    state: Tensors,
    scalars: Tensors,
    step: Tensors,
    *,
    nesterov: bool,
) -> None:
    g = _with_l2(w, g, scalars)
    buffer = state["momentum_buffer"].mul_(step["momentum"]).add_(g)
    direction = torch.addcmul(g, buffer, step["momentum"]) if nesterov else buffer
    w.addcmul_(direction, -scalars["lr"] * step["schedule"])


def _sgd_scalars(scale: Scale) -> Scalars:
    c = scale.mult * scale.grad
    return {"lr": scale.lr * scale.mult * c, "l2": scale.weight_decay / (scale.mult * c)}


def _momentum(options: Options, k: int) -> Scalars:
    return {"momentum": options["momentum"]}


def _nesterov(options: Options, k: int) -> dict[str, Any]:
    return {"nesterov": options["nesterov"]}


# Adam and AdamW


def _adam(
    w: Tensor,
    g: Tensor,
    state: Tensors,
    scalars: Tensors,
    step: Tensors,
) -> None:
    g = _with_l2(w, g, scalars)
    _decay(w, scalars, step)
    mean = state["exp_avg"].lerp_(g, step["1-beta1"])
    # one temporary tensor for all: fresh memory costs a CPU as much as the arithmetic
    work = g.square()
    square = state["exp_avg_sq"].lerp_(work, step["1-beta2"])
    torch.sqrt(square, out=work).mul_(step["rsqrt_correction2"]).add_(scalars["eps"])
    direction = torch.div(mean, work, out=work)
    w.sub_(direction.mul_(scalars["lr"] * step["schedule"] * step["1/correction1"]))


def _adam_scalars(scale: Scale) -> Scalars:
    c = scale.mult * scale.grad
    return {
        "lr": scale.lr * scale.mult,
        "eps": scale.eps / c,
        "l2": scale.weight_decay / (scale.mult * c),
    }


def _adamw_scalars(scale: Scale) -> Scalars:
    return {
        "lr": scale.lr * scale.mult * scale.shape_factor,
        "eps": scale.eps / (scale.mult * scale.grad),
        "decay": scale.lr * scale.weight_decay,
    }


_ADAMW = StackedRule(_adam, _adamw_scalars, adam_corrections, buffers=("exp_avg", "exp_avg_sq"))


# Our own optimizers: a direction of the gradient c G that the member's own optimizer would see


def _moving(direction: Callable[..., Tensor]) -> Callable[..., None]:
    """Make the update `W <- W - lr (weight_decay W + u)`.

    `u = direction(c G, state, scalars, numbers, **host_arguments)`, where `numbers` is `step`
    without the schedule.
    """

    def update(
        w: Tensor,
        g: Tensor,
        state: Tensors,
        scalars: Tensors,
        step: Tensors,
        **host_arguments: Any,
    ) -> None:
        numbers = {name: x for name, x in step.items() if name != "schedule"}
        u = direction(g * scalars["c"], state, scalars, numbers, **host_arguments)
        _decay(w, scalars, step)
        w.addcmul_(u, -scalars["lr"] * step["schedule"])

    return update


def _along(
    direction: Direction,
    buffers: tuple[str, ...],
    takes_eps: bool = False,
) -> Callable[..., None]:
    """Make the update of an optimizer that follows a direction.

    `u, *buffers = direction(c G, *buffers, **numbers, **host_arguments)`, to which eps is added if
    it is taken (see `_moving`).
    """

    def with_state(
        g: Tensor, state: Tensors, scalars: Tensors, numbers: Tensors, **host_arguments: Any
    ) -> Tensor:
        if takes_eps:
            numbers = {**numbers, "eps": scalars["eps"]}
        before = [state[name] for name in buffers]
        u, *after = direction(g, *before, **numbers, **host_arguments)
        for name, x in zip(buffers, after, strict=True):
            state[name].copy_(x)
        return u

    return _moving(with_state)


def _direction_scalars(scale: Scale) -> Scalars:
    return {
        "c": scale.mult * scale.grad,
        "lr": scale.lr * scale.mult * scale.shape_factor,
        **_eps(scale),
        "decay": scale.lr * scale.weight_decay,
    }


def _eps(scale: Scale) -> Scalars:
    """Return what is added to roots of averages of squares, and to sums of `G G^T`."""
    if scale.matrix_eps is None:
        return {"eps": scale.eps}
    return {"eps": scale.eps, "matrix_eps": scale.matrix_eps}


@cache  # one rule for each class: an update is compiled once
def _elementwise(optimizer: type[Elementwise]) -> Stackable:
    """The stacked rule of an elementwise optimizer, from its direction.

    Raises:
        NotStackable: if it does more than its direction says.
    """
    for method in ("update", "step"):
        # torch wraps the `step` of every optimizer class when one is made
        own = inspect.unwrap(getattr(optimizer, method))
        if own is not inspect.unwrap(getattr(Elementwise, method)):
            raise NotStackable(
                f"optimizer {optimizer.__name__}: has its own `{method}`, "
                "and a stack knows only its direction"
            )
    parameters = inspect.signature(optimizer).parameters
    update = _along(optimizer.direction, optimizer.buffers, takes_eps="eps" in parameters)
    rule = StackedRule(update, _direction_scalars, optimizer.scalars, buffers=optimizer.buffers)
    options = tuple(name for name in _defaults(optimizer) if name not in GROUP_OPTIONS)
    return Stackable({optimizer.update_kind: rule}, options)


def _orthogonal(
    g: Tensor,
    m: Tensor,
    momentum: Tensor,
    method: str,
    nesterov: bool,
) -> tuple[Tensor, Tensor]:
    x, m = accumulate(g, m, momentum, nesterov)
    return METHODS[method](x), m


def _orthogonal_arguments(options: Options, k: int) -> dict[str, Any]:
    return {"method": options["method"], "nesterov": options["nesterov"]}


def _is_svd(options: Options, k: int) -> bool:
    return options["method"] == "svd"


def _scion_arguments(options: Options, k: int) -> dict[str, Any]:
    return {"method": options["method"], "nesterov": False}


_ORTHOGONAL = StackedRule(
    _along(_orthogonal, ("momentum_buffer",)),
    _direction_scalars,
    _momentum,
    buffers=("momentum_buffer",),
    host_arguments=_orthogonal_arguments,
    layout="matrix",
    needs_host=_is_svd,
    by_copy=True,
)


_ORTHOGONAL_SCION = replace(_ORTHOGONAL, host_arguments=_scion_arguments)
_SIGN_SCION = StackedRule(
    _along(sign_momentum, ("momentum_buffer",)),
    _direction_scalars,
    _momentum,
    buffers=("momentum_buffer",),
)
_ROWS_SCION = replace(
    _SIGN_SCION, update=_along(unit_rows_momentum, ("momentum_buffer",)), layout="tensor"
)


@cache  # one rule for each: its table of steps is computed once
def _cut(rule: StackedRule, parts: tuple[int, ...], transposed: bool) -> StackedRule:
    """Make a rule that applies another one to each matrix (S, out, in) that a tensor holds.

    Args:
        parts: their numbers of outputs; () for one matrix.
        transposed: whether the tensor is (S, in, out).
    """

    def update(
        w: Tensor,
        g: Tensor,
        state: Tensors,
        scalars: Tensors,
        step: Tensors,
        **host_arguments: Any,
    ) -> None:
        start = 0
        shared = {name: x for name, x in scalars.items() if not name.startswith("part")}
        sizes = parts or (w.shape[-1] if transposed else w.shape[1],)
        for i, size in enumerate(sizes):
            views = [_rows(x, start, size, transposed) for x in (w, g)]
            own = {name: _rows(x, start, size, transposed) for name, x in state.items()}
            lr = scalars["lr"] * scalars[f"part{i}"] if parts else scalars["lr"]
            rule.update(*views, own, {**shared, "lr": lr}, step, **host_arguments)
            start += size

    def scalars(scale: Scale) -> Scalars:
        numbers = rule.scalars(scale)
        for i, factor in enumerate(scale.part_factors):
            numbers[f"part{i}"] = factor / scale.shape_factor
        return numbers

    return replace(rule, update=update, scalars=scalars)


def _rows(x: Tensor, start: int, size: int, transposed: bool) -> Tensor:
    """The rows of one of the matrices that a tensor (S, out, in) holds, as a view."""
    return (x.mT if transposed else x).narrow(1, start, size)


# Any rule, with the update divided by its norm


@cache  # one rule for each: its table of steps is computed once
def _normalised(rule: StackedRule, normalise: str) -> StackedRule:
    """Make a rule that divides the updates of another one by their norm.

    The other rule makes its step of W with lr = 1 and without weight decay; what it has subtracted
    is normalised, as a run alone does.
    """

    def update(
        w: Tensor,
        g: Tensor,
        state: Tensors,
        scalars: Tensors,
        step: Tensors,
        **host_arguments: Any,
    ) -> None:
        lr = scalars["lr"] * step["schedule"]
        one = torch.ones_like(lr)
        before = w.clone()
        inner_scalars = {name: x for name, x in scalars.items() if name not in ("decay", "factor")}
        inner_scalars["lr"] = one
        rule.update(w, g, state, inner_scalars, {**step, "schedule": one}, **host_arguments)
        old = before.flatten(2)
        u = old - w.flatten(2)
        shape = (-1, 1, 1)
        decay = scalars["decay"] * step["schedule"] if "decay" in scalars else torch.zeros_like(lr)
        numbers = [x.view(shape) for x in (lr, scalars["factor"], decay)]
        w.copy_(moved(normalise, old, u, *numbers).view_as(w))

    def scalars(scale: Scale) -> Scalars:
        inner = rule.scalars(replace(scale, lr=1.0, weight_decay=0.0))
        return inner | {
            "lr": scale.lr,
            "factor": scale.mult * scale.shape_factor,
            "decay": scale.lr * scale.weight_decay,
        }

    layout: Layout = "matrix" if rule.layout == "entries" else rule.layout
    return replace(rule, update=update, scalars=scalars, layout=layout, by_copy=True)


# SOAP and Shampoo see the gradient c G too: so rounding decides as in a run alone


def _preconditioned_scalars(scale: Scale) -> Scalars:
    return {
        "c": scale.mult * scale.grad,
        "lr": scale.lr * scale.mult,
        **_eps(scale),
        "lr*weight_decay": scale.lr * scale.weight_decay,
        "weight_decay/mult": scale.weight_decay / scale.mult,
    }


def _soap(
    w: Tensor,
    g: Tensor,
    state: Tensors,
    scalars: Tensors,
    step: Tensors,
    *,
    first: bool,
    **host_arguments: Any,
) -> None:
    """SOAP as the library makes it, which decays weights after the step, and not at the first."""
    g = g * scalars["c"]
    u = SOAP.direction(g, state, scalars["eps"], step, first=first, **host_arguments)
    if not first:
        w.addcmul_(u, -scalars["lr"] * step["schedule"])
        w.mul_(1 - scalars["lr*weight_decay"] * step["schedule"])


def _shampoo(
    w: Tensor,
    g: Tensor,
    state: Tensors,
    scalars: Tensors,
    step: Tensors,
    *,
    weight_decouple: bool,
    **host_arguments: Any,
) -> None:
    """Full Shampoo as the library makes it, whose weight decay may be part of the gradient."""
    g = g * scalars["c"]
    if weight_decouple:
        w.mul_(1 - scalars["lr*weight_decay"] * step["schedule"])
    else:
        g = torch.addcmul(g, w, scalars["weight_decay/mult"])
    u = SHAMPOO.direction(g, state, scalars["matrix_eps"], step, **host_arguments)
    w.addcmul_(u, -scalars["lr"] * step["schedule"])


def _shampoo_arguments(options: Options, k: int) -> dict[str, Any]:
    return SHAMPOO.host_arguments(options, k) | {"weight_decouple": options["weight_decouple"]}


def _preconditioned(update: Callable[..., None], method: Preconditioner) -> StackedRule:
    return StackedRule(
        update,
        _preconditioned_scalars,
        method.step_scalars,
        buffers=method.buffers,
        matrices=method.matrices,
        host_arguments=method.host_arguments,
        layout="tensor",
        needs_host=method.needs_host,
    )


_SOAP = _preconditioned(_soap, SOAP)
_SHAMPOO = replace(_preconditioned(_shampoo, SHAMPOO), host_arguments=_shampoo_arguments)

# Ours, in blocks


@cache  # one rule for each: its table of steps is computed once
def _blocked(method: Preconditioner, block_size: int | None, graft: str | None) -> StackedRule:
    """Make the rule of a preconditioner in blocks, from its direction."""
    options: dict[str, Any] = {"block_size": block_size, "graft": graft}

    def direction(
        g: Tensor, state: Tensors, scalars: Tensors, numbers: Tensors, **host_arguments: Any
    ) -> Tensor:
        return blocked_direction(method, g, state, scalars, numbers, **options, **host_arguments)

    return StackedRule(
        _moving(direction),
        _direction_scalars,
        partial(blocked_step, method),
        buffers=buffers_of(method, options),
        matrices=partial(blocked_matrices, method),
        host_arguments=method.host_arguments,
        layout="tensor",
        needs_host=method.needs_host,
        by_copy=True,
    )


# What is no `Elementwise`, by package and class, as pytorch_optimizer may not be installed
_KNOWN: dict[str, Stackable] = {
    "torch.SGD": Stackable(
        {
            "sgd": StackedRule(
                _sgd,
                _sgd_scalars,
                _momentum,
                buffers=("momentum_buffer",),
                host_arguments=_nesterov,
            )
        },
        options=("momentum",),
        shared_options=("nesterov",),
    ),
    "torch.Adam": Stackable({"adam": replace(_ADAMW, scalars=_adam_scalars)}, options=("betas",)),
    "torch.AdamW": Stackable({"adam": _ADAMW}, options=("betas",)),
    "mupl.Orthogonal": Stackable(
        {"orthogonal": _ORTHOGONAL, "adam": _ADAMW},
        options=("momentum", "betas", "scale"),
        shared_options=("method", "nesterov", "roles", "per"),
    ),
    "mupl.Scion": Stackable(
        {"orthogonal": _ORTHOGONAL_SCION, "sign": _SIGN_SCION, "adam": _ROWS_SCION},
        options=("momentum", "matrix_radius", "readout_radius", "other_radius", "constrained"),
        shared_options=("method", "per"),
    ),
    "pytorch_optimizer.SOAP": Stackable(
        dict.fromkeys(("adam", *ROTATIONS), _SOAP),
        options=("betas",),
        shared_options=("precondition_frequency", "max_precondition_dim"),
    ),
    "pytorch_optimizer.Shampoo": Stackable(
        dict.fromkeys(("whitened", "orthogonal"), _SHAMPOO),
        options=("matrix_eps",),
        shared_options=("preconditioning_compute_steps", "weight_decouple"),
    ),
}
GROUP_OPTIONS = ("lr", "eps", "weight_decay")  # come with the param groups
_SPEED_OPTIONS = ("foreach", "fused", "capturable", "differentiable")  # change no result


def stackable(optimizer: Callable[..., Optimizer]) -> tuple[Stackable, dict[str, Any]]:
    """What a stack knows of an optimizer, and the values of the options that it reads.

    Args:
        optimizer: a constructor, or a partial of one.

    Raises:
        NotStackable: if it does not know the optimizer, or an option that is set.
    """
    constructor, chosen = unwrapped(optimizer)
    if constructor is Normalized:
        defaults = _defaults(constructor)
        found, options = stackable(resolve(chosen.get("inner", defaults["inner"])))
        normalise = chosen.get("normalise", defaults["normalise"])
        return replace(found, normalise=normalise), options
    defaults = _defaults(constructor)
    found = _look_up(constructor, {**defaults, **chosen})
    known = (*found.options, *found.shared_options)
    for name, value in chosen.items():
        without_effect = name in GROUP_OPTIONS or name in _SPEED_OPTIONS
        if name in known or without_effect or value == defaults.get(name):
            continue
        raise NotStackable(f"optimizer.{name}={value}: a stack knows {', '.join(known)}")
    return found, {name: chosen.get(name, defaults[name]) for name in known}


def _look_up(constructor: Callable[..., Any], options: Options) -> Stackable:
    if inspect.isclass(constructor) and issubclass(constructor, Elementwise):
        return _elementwise(constructor)
    if inspect.isclass(constructor) and issubclass(constructor, Blocked):
        rule = _blocked(constructor.method, options["block_size"], options["graft"])
        shared = [name for name in _defaults(constructor) if name not in GROUP_OPTIONS]
        shared.remove("betas")
        return Stackable(dict.fromkeys(UpdateKind, rule), ("betas",), tuple(shared))
    if qualified(constructor) not in _KNOWN:
        names = [name.partition(".")[2] for name in _KNOWN]
        raise NotStackable(
            f"optimizer {constructor.__name__}: a stack knows {', '.join(names)} "
            "and every subclass of mupl.optim.elementwise.Elementwise"
        )
    return _KNOWN[qualified(constructor)]


def has_default_options(optimizer: Callable[..., Optimizer]) -> bool:
    """Whether all options are as the class has them."""
    constructor, chosen = unwrapped(optimizer)
    defaults = _defaults(constructor)
    for name, value in chosen.items():
        comparable = tuple(value) if isinstance(value, list) else value
        if comparable != defaults.get(name):
            return False
    return True


def _defaults(constructor: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(constructor).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
