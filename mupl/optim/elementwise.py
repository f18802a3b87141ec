"""Optimizers of the update kind `adam` that torch does not have: entries of updates have size lr.

Each one is a direction, a pure function of tensors of any shape. A single run calls it for one
tensor, a stack calls the same function for the tensors of many members at once. A new optimizer is
a module of `mupl.optim` with a direction and a class, and a file in conf/optimizer; nothing else
has to name it.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mupl.optim.base import DirectionOptimizer
from mupl.optim.registry import register
from mupl.parametrization.update_kinds import UpdateKind

Betas = tuple[float, float]
Number = float | Tensor  # a tensor that broadcasts where members of a stack differ


def sign_momentum(
    g: Tensor,
    m: Tensor,
    momentum: Number,
) -> tuple[Tensor, Tensor]:
    """Sign of the momentum (Bernstein et al. 2018, signum).

    `m <- momentum m + (1 - momentum) g`; returns `sign(m)` and m.
    """
    m = m.lerp(g, 1 - momentum)
    return m.sign(), m


def lion(
    g: Tensor,
    m: Tensor,
    beta1: Number,
    beta2: Number,
) -> tuple[Tensor, Tensor]:
    """`u = sign(beta1 m + (1 - beta1) g)`, then `m <- beta2 m + (1 - beta2) g`.

    Returns u and m (Chen et al. 2023).
    """
    u = m.lerp(g, 1 - beta1).sign()
    m = m.lerp(g, 1 - beta2)
    return u, m


def adam_atan2(
    g: Tensor,
    m: Tensor,
    v: Tensor,
    step: Number,
    beta1: Number,
    beta2: Number,
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam without epsilon: `u = 4/pi atan2(m / (1 - beta1^step), sqrt(v / (1 - beta2^step)))`.

    4/pi makes u = 1 where Adam's direction is 1; no u exceeds 2. Returns u, m and v (Everett et al.
    2024).
    """
    m = m.lerp(g, 1 - beta1)
    v = v.lerp(g * g, 1 - beta2)
    mean = m / (1 - beta1**step)
    square = v / (1 - beta2**step)
    u = torch.atan2(mean, square.sqrt())
    return 4 / math.pi * u, m, v


class Elementwise(DirectionOptimizer):
    """An optimizer that moves each entry of a tensor by itself: `w <- w - lr (weight_decay w + u)`.

    A subclass names its buffers, gives its direction `u, *buffers = direction(g, *buffers,
    **scalars)` and says which scalars that takes. If its constructor passes an `eps` on, the
    direction gets the param group's as its argument `eps`; all other arguments come from `scalars`.

    Attributes:
        buffers: names of the tensors that it keeps for each weight, 0 at first; `step` counts the
            updates beside them.
        direction: a function such as `lion`, in a `staticmethod`. It must not depend on `self`, as
            stacks call it too.
    """

    update_kind = UpdateKind.ADAM
    buffers: ClassVar[tuple[str, ...]]
    direction: ClassVar[Callable[..., tuple[Tensor, ...]]]

    @staticmethod
    @abstractmethod
    def scalars(options: Mapping[str, Any], k: int) -> dict[str, float]:
        """The scalar arguments of `direction` at update k = 0, 1, ...

        Args:
            options: of the constructor, beside lr, eps and weight_decay, as param groups hold them.
        """

    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for w in weights:
            state = self.state[w]
            if not state:
                state["step"] = 0
                state.update({name: torch.zeros_like(w) for name in self.buffers})
            scalars = self.scalars(group, state["step"])
            if "eps" in group:
                scalars["eps"] = group["eps"]
            before = [state[name] for name in self.buffers]
            u, *after = self.direction(w.grad, *before, **scalars)
            state.update(zip(self.buffers, after, strict=True))
            state["step"] += 1
            w.mul_(1 - group["lr"] * group["weight_decay"])
            w.sub_(u, alpha=group["lr"])


@register("sign_sgd")
class SignSGD(Elementwise):
    """Sign of the momentum, with decoupled weight decay; see `sign_momentum`."""

    buffers = ("momentum_buffer",)
    direction = staticmethod(sign_momentum)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, momentum=momentum)

    @staticmethod
    def scalars(options: Mapping[str, Any], k: int) -> dict[str, float]:
        return {"momentum": options["momentum"]}


@register("lion")
class Lion(Elementwise):
    """Sign of a mixture of momentum and gradient, with decoupled weight decay; see `lion`."""

    buffers = ("exp_avg",)
    direction = staticmethod(lion)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: Betas = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, betas=betas)

    @staticmethod
    def scalars(options: Mapping[str, Any], k: int) -> dict[str, float]:
        beta1, beta2 = options["betas"]
        return {"beta1": beta1, "beta2": beta2}


@register("adam_atan2")
class AdamAtan2(Elementwise):
    """Adam with atan2 in place of division and epsilon, and decoupled weight decay.

    See `adam_atan2`.
    """

    buffers = ("exp_avg", "exp_avg_sq")
    direction = staticmethod(adam_atan2)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Betas = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, weight_decay, betas=betas)

    @staticmethod
    def scalars(options: Mapping[str, Any], k: int) -> dict[str, float]:
        beta1, beta2 = options["betas"]
        return {"step": k + 1, "beta1": beta1, "beta2": beta2}
