"""Update rules for a stack of members, each with its own hyperparameters; see `mupl.stacked.optimizer`."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam

from mupl.optim.elementwise import AdamAtan2, Elementwise, Lion, SignSGD
from mupl.optim.orthogonal import METHODS, accumulate
from mupl.optim.registry import qualified, unwrapped
from mupl.parametrization.scales import Scale
from mupl.stacked.preconditioned import Tensors, shampoo, shampoo_matrices, soap, soap_matrices

Numbers = dict[str, float]
Flags = Mapping[str, Any]
Direction = Callable[..., tuple[Tensor, ...]]
StepNumbers = Callable[[Mapping[str, Any], int], Numbers]


class NotStackable(Exception):
    """Says why something cannot be trained as a member of a stack."""


@dataclass(frozen=True)
class StackedRule:
    """How S members' effective weights W of one tensor are updated from their gradients G.

    Args:
        state: names of the tensors like W that it carries on, all 0 at first.
        update: `(W, G, state, numbers, **flags)`, in place. W is (S, n) and a number (S, 1); see `dims`.
        numbers: `scale -> ` numbers of the tensor, for effective weights; l2 and decay are left out where all are 0.
        step_numbers: `(options, k) ->` numbers of update k = 0, 1, ...
        flags: options that `update` takes as they are, and `k`, the number of the update, where the host must know it.
        fused: torch's own kernel for the same update of one large member on a CPU, which reads each tensor once: W is
            (n,), and numbers are floats.
        dims: of W in `update`; 1 where each entry is updated by itself, 2 for (S, out, in), None for (S, *shape).
        matrices: `(shape, flags) ->` names and sizes n of the states (S, n, n).
        on_host: `(flags, k) ->` whether update k needs the host, so that no CUDA graph can hold it.
    """

    state: tuple[str, ...]
    update: Callable[..., None]
    numbers: Callable[[Scale], Numbers]
    step_numbers: StepNumbers
    flags: tuple[str, ...] = ()
    fused: Callable[..., None] | None = None
    dims: int | None = 1
    matrices: Callable[[Sequence[int], Flags], Mapping[str, int]] = lambda shape, flags: {}
    on_host: Callable[[Flags, int], bool] = lambda flags, k: False

    def states(self, shape: Sequence[int], flags: Flags) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a member's state of a tensor."""
        like, matrices = dict.fromkeys(self.state, tuple(shape)), self.matrices(shape, flags)
        return like | {name: (n, n) for name, n in matrices.items()}


@dataclass(frozen=True)
class Stackable:
    """An optimizer that a stack knows.

    Args:
        rules: for tensors of each update kind.
        options: of its constructor, those in which members may differ.
        flags: those that they must share.
    """

    rules: Mapping[str, StackedRule]
    options: tuple[str, ...]
    flags: tuple[str, ...] = ()


def _sgd(w: Tensor, g: Tensor, state: Tensors, n: Tensors, nesterov: bool) -> None:
    if "l2" in n:
        g = torch.addcmul(g, w, n["l2"])
    buffer = state["momentum_buffer"].mul_(n["momentum"]).add_(g)
    w.addcmul_(
        torch.addcmul(g, buffer, n["momentum"]) if nesterov else buffer, -n["lr"] * n["schedule"]
    )


def _adam(w: Tensor, g: Tensor, state: Tensors, n: Tensors) -> None:
    if "l2" in n:
        g = torch.addcmul(g, w, n["l2"])
    _decay(w, n)
    mean = state["exp_avg"].lerp_(g, n["1-beta1"])
    square = state["exp_avg_sq"].lerp_(g.square(), n["1-beta2"])
    denominator = torch.addcmul(n["eps"], square.sqrt(), n["rsqrt_correction2"])
    w.addcmul_(mean / denominator, -n["lr"] * n["schedule"] * n["1/correction1"])


def _adam_fused(w: Tensor, g: Tensor, state: Tensors, value: Numbers) -> None:
    decay = (
        value["decay"] / max(value["lr"], torch.finfo().tiny)
        if "decay" in value
        else value.get("l2", 0.0)
    )
    adam(
        [w], [g.contiguous()], [state["exp_avg"]], [state["exp_avg_sq"]], [], [torch.tensor(value["k"])], fused=True,
        decoupled_weight_decay="decay" in value, amsgrad=False, beta1=1 - value["1-beta1"], beta2=1 - value["1-beta2"],
        lr=value["lr"] * value["schedule"], weight_decay=decay, eps=value["eps"], maximize=False,
    )  # fmt: skip
    # contiguous: the kernel takes a gradient of other strides for one, silently


def _decay(w: Tensor, n: Tensors) -> None:
    if "decay" in n:
        w.mul_(1 - n["decay"] * n["schedule"])


def _orthogonal(
    g: Tensor, m: Tensor, momentum: Tensor, method: str, nesterov: bool
) -> tuple[Tensor, Tensor]:
    x, m = accumulate(g, m, momentum, nesterov)
    return METHODS[method](x), m


# By the abc-symmetry, with c = mult * grad between the gradient of w and that of W = mult * w:


def _sgd_numbers(scale: Scale) -> Numbers:
    c = scale.mult * scale.grad
    return {"lr": scale.lr * scale.mult * c, "l2": scale.weight_decay / (scale.mult * c)}


def _adam_numbers(scale: Scale) -> Numbers:
    c = scale.mult * scale.grad
    return {
        "lr": scale.lr * scale.mult,
        "eps": scale.eps / c,
        "l2": scale.weight_decay / (scale.mult * c),
    }


def _adamw_numbers(scale: Scale) -> Numbers:
    return {"eps": scale.eps / (scale.mult * scale.grad), **_direction_numbers(scale)}


def _direction_numbers(scale: Scale) -> Numbers:
    """Of an update that does not depend on the gradient's scale, and decoupled weight decay."""
    return {
        "lr": scale.lr * scale.mult * scale.shape_factor,
        "decay": scale.lr * scale.weight_decay,
    }


def _gradient_numbers(scale: Scale) -> Numbers:
    """Of an update that is computed as it is alone, of the gradient c G of w: what rounding decides stays the same."""
    return {
        "grad": scale.mult * scale.grad,
        "lr": scale.lr * scale.mult,
        "eps": scale.eps,
        "lr*weight_decay": scale.lr * scale.weight_decay,
        "weight_decay/mult": scale.weight_decay / scale.mult,
    }


def _corrections(options: Mapping[str, Any], k: int) -> Numbers:
    beta1, beta2 = options["betas"]
    return {
        "k": k,
        "1-beta1": 1 - beta1,
        "1-beta2": 1 - beta2,
        "1/correction1": 1 / (1 - beta1 ** (k + 1)),
        "rsqrt_correction2": 1 / math.sqrt(1 - beta2 ** (k + 1)),
    }


def _only(name: str) -> StepNumbers:
    """An option as it is."""
    return lambda options, k: {name: options[name]}


def _soap_corrections(options: Mapping[str, Any], k: int) -> Numbers:
    """As Adam's of a step less: update 0 moves nothing."""
    n = _corrections(options, max(k - 1, 0))
    return {
        "1-beta1": n["1-beta1"],
        "1-beta2": n["1-beta2"],
        "correction": n["1/correction1"] / n["rsqrt_correction2"],
    }


def _directed(
    direction: Direction, buffers: tuple[str, ...], numbers: StepNumbers, **more: Any
) -> StackedRule:
    """The rule of `u, *buffers = direction(G, *buffers, ...)`, where u does not depend on the scale of G."""
    takes = tuple(inspect.signature(direction).parameters)

    def update(w: Tensor, g: Tensor, state: Tensors, n: Tensors, **flags: Any) -> None:
        own = {name: number for name, number in n.items() if name in takes}
        u, *after = direction(g, *[state[name] for name in buffers], **own, **flags)
        for name, buffer in zip(buffers, after, strict=True):
            state[name].copy_(buffer)
        _decay(w, n)
        w.addcmul_(u, -n["lr"] * n["schedule"])

    return StackedRule(buffers, update, _direction_numbers, numbers, **more)


def _elementwise(optimizer: type[Elementwise], *options: str) -> Stackable:
    return Stackable(
        {"adam": _directed(optimizer.direction, optimizer.buffers, optimizer.numbers)}, options
    )


_MOMENTS = ("exp_avg", "exp_avg_sq")
_ADAMW = StackedRule(_MOMENTS, _adam, _adamw_numbers, _corrections, fused=_adam_fused)
_ORTHOGONAL = _directed(
    _orthogonal, ("momentum_buffer",), _only("momentum"), flags=("method", "nesterov"), dims=2,
    on_host=lambda flags, k: flags["method"] == "svd",
)  # fmt: skip
_SOAP = StackedRule(
    _MOMENTS, soap, _gradient_numbers, _soap_corrections, ("k", "precondition_frequency"), dims=None,
    matrices=soap_matrices, on_host=lambda flags, k: k % flags["precondition_frequency"] == 0,
)  # fmt: skip
_SHAMPOO = StackedRule(
    (), shampoo, _gradient_numbers, _only("matrix_eps"), ("k", "preconditioning_compute_steps", "weight_decouple"),
    dims=None, matrices=shampoo_matrices,
    on_host=lambda flags, k: (k + 1) % flags["preconditioning_compute_steps"] == 0,
)  # fmt: skip

# By package and class, as a package may be missing; a new optimizer is one more entry
OPTIMIZERS: dict[str, Stackable] = {
    "torch.SGD": Stackable(
        {
            "sgd": StackedRule(
                ("momentum_buffer",), _sgd, _sgd_numbers, _only("momentum"), ("nesterov",)
            )
        },
        ("momentum",),
        ("nesterov",),
    ),
    "torch.Adam": Stackable({"adam": replace(_ADAMW, numbers=_adam_numbers)}, ("betas",)),
    "torch.AdamW": Stackable({"adam": _ADAMW}, ("betas",)),
    "mupl.Lion": _elementwise(Lion, "betas"),
    "mupl.SignSGD": _elementwise(SignSGD, "momentum"),
    "mupl.AdamAtan2": _elementwise(AdamAtan2, "betas"),
    "mupl.Orthogonal": Stackable(
        {"orthogonal": _ORTHOGONAL, "adam": _ADAMW},
        ("momentum", "betas", "scale"),
        ("method", "nesterov", "roles"),
    ),
    "pytorch_optimizer.SOAP": Stackable(
        {"adam": _SOAP}, ("betas",), ("precondition_frequency", "max_precondition_dim")
    ),
    "pytorch_optimizer.Shampoo": Stackable(
        {"orthogonal": _SHAMPOO},
        ("matrix_eps",),
        ("preconditioning_compute_steps", "weight_decouple"),
    ),
}
_OF_GROUPS = ("lr", "eps", "weight_decay")  # come with the param groups
_SPEED = ("foreach", "fused", "capturable", "differentiable")  # change nothing else


def stackable(optimizer: Callable[..., Optimizer]) -> tuple[Stackable, dict[str, Any]]:
    """What a stack knows of an optimizer's constructor, or a partial of it, and the values of its options and flags.

    Raises:
        NotStackable: if it knows nothing, or an option is set that it does not know.
    """
    constructor, chosen, defaults = _options(optimizer)
    if qualified(constructor) not in OPTIMIZERS:
        names = ", ".join(name.partition(".")[2] for name in OPTIMIZERS)
        raise NotStackable(f"optimizer {constructor.__name__}: a stack knows {names}")
    found = OPTIMIZERS[qualified(constructor)]
    known = (*found.options, *found.flags)
    for name, value in chosen.items():
        if name not in (*known, *_OF_GROUPS, *_SPEED) and value != defaults.get(name):
            raise NotStackable(f"optimizer.{name}={value}: a stack knows {', '.join(known)}")
    return found, {name: chosen.get(name, defaults[name]) for name in known}


def default_options(optimizer: Callable[..., Optimizer]) -> bool:
    """Whether all options are as the class has them."""
    _, chosen, defaults = _options(optimizer)
    return all(
        (tuple(v) if isinstance(v, list) else v) == defaults.get(name) for name, v in chosen.items()
    )


def _options(optimizer: Callable[..., Optimizer]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The class of a constructor or a partial of it, the options that are chosen, and the defaults of all."""
    constructor, chosen = unwrapped(optimizer)
    return (
        constructor,
        chosen,
        {name: p.default for name, p in inspect.signature(constructor).parameters.items()},
    )
