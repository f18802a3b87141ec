"""Optimizers of the update kind `adam` that torch has not: entries of an update have size lr whatever the gradient.

Their directions are pure functions of tensors of any shape, so one call serves one model or many stacked ones.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mupl.optim.base import DirectionOptimizer

Betas = tuple[float, float]
Number = float | Tensor  # a tensor that broadcasts where members of a stack differ


def sign_momentum(g: Tensor, m: Tensor, momentum: Number) -> tuple[Tensor, Tensor]:
    """`m <- momentum m + (1 - momentum) g`; returns `sign(m)` and m (Bernstein et al. 2018, signum)."""
    m = m.lerp(g, 1 - momentum)
    return m.sign(), m


def lion(g: Tensor, m: Tensor, beta1: Number, beta2: Number) -> tuple[Tensor, Tensor]:
    """`u = sign(beta1 m + (1 - beta1) g)`, then `m <- beta2 m + (1 - beta2) g`; returns u and m (Chen et al. 2023)."""
    return m.lerp(g, 1 - beta1).sign(), m.lerp(g, 1 - beta2)


def adam_atan2(
    g: Tensor, m: Tensor, v: Tensor, step: Number, beta1: Number, beta2: Number
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam without epsilon: `u = 4/pi atan2(m / (1 - beta1^step), sqrt(v / (1 - beta2^step)))`, and m, v.

    4/pi makes u = 1 where Adam's direction is 1; no u exceeds 2. (Everett et al. 2024.)
    """
    m, v = m.lerp(g, 1 - beta1), v.lerp(g * g, 1 - beta2)
    u = torch.atan2(m / (1 - beta1**step), (v / (1 - beta2**step)).sqrt())
    return 4 / math.pi * u, m, v


class Elementwise(DirectionOptimizer):
    """One tensor at a time; its state is the number of updates begun, `step`, and `buffers`, at first 0.

    Attributes:
        buffers: names of the tensors of its state.
        direction: `(g, *buffers, **numbers) -> (u, *buffers)`, of the functions above; stacks use it too.
    """

    buffers: ClassVar[tuple[str, ...]]
    direction: ClassVar[Callable[..., tuple[Tensor, ...]]]

    @staticmethod
    @abstractmethod
    def numbers(options: Mapping[str, Any], k: int) -> dict[str, float]:
        """What `direction` takes beside tensors, at update k = 0, 1, ... under a param group's options."""

    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for w in weights:
            state = self.state[w]
            if not state:
                state.update({"step": 0} | {name: torch.zeros_like(w) for name in self.buffers})
            numbers = self.numbers(group, state["step"])
            u, *buffers = self.direction(w.grad, *(state[name] for name in self.buffers), **numbers)
            state.update(zip(self.buffers, buffers, strict=True), step=state["step"] + 1)
            w.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u, alpha=group["lr"])


class SignSGD(Elementwise):
    """Sign of the momentum; weight decay is decoupled. See `sign_momentum`."""

    buffers = ("momentum_buffer",)
    direction = staticmethod(sign_momentum)

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr, weight_decay, momentum=momentum)

    @staticmethod
    def numbers(options: Mapping[str, Any], k: int) -> dict[str, float]:
        return {"momentum": options["momentum"]}


class Lion(Elementwise):
    """Sign of an interpolation of momentum and gradient; weight decay is decoupled. See `lion`."""

    buffers = ("exp_avg",)
    direction = staticmethod(lion)

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr, weight_decay, betas=betas)

    @staticmethod
    def numbers(options: Mapping[str, Any], k: int) -> dict[str, float]:
        beta1, beta2 = options["betas"]
        return {"beta1": beta1, "beta2": beta2}


class AdamAtan2(Elementwise):
    """Adam with atan2 in the place of division and epsilon; weight decay is decoupled. See `adam_atan2`."""

    buffers = ("exp_avg", "exp_avg_sq")
    direction = staticmethod(adam_atan2)

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: Betas = (0.9, 0.999), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr, weight_decay, betas=betas)

    @staticmethod
    def numbers(options: Mapping[str, Any], k: int) -> dict[str, float]:
        beta1, beta2 = options["betas"]
        return {"step": k + 1, "beta1": beta1, "beta2": beta2}
