"""Optimizers of the family `adam` that torch has not: entries of an update have size lr whatever the gradient.

Their directions are pure functions of tensors of any shape, so one call serves one model or many stacked ones.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from mupl.optim.base import DirectionOptimizer, move

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
    """One tensor at a time; its state is the number of updates begun, `step`, and `buffers`, at first 0."""

    buffers: tuple[str, ...]

    @abstractmethod
    def direction(self, group: dict[str, Any], g: Tensor, state: dict[str, Any]) -> Tensor:
        """u for the gradient g; brings the buffers up to date."""

    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for w in weights:
            assert w.grad is not None
            state = self.state[w]
            if not state:
                state.update({"step": 0} | {name: torch.zeros_like(w) for name in self.buffers})
            state["step"] += 1
            move(group, w, self.direction(group, w.grad, state))


class SignSGD(Elementwise):
    """Sign of the momentum; weight decay is decoupled. See `sign_momentum`."""

    buffers = ("momentum_buffer",)

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay, momentum=momentum)

    def direction(self, group: dict[str, Any], g: Tensor, state: dict[str, Any]) -> Tensor:
        u, state["momentum_buffer"] = sign_momentum(g, state["momentum_buffer"], group["momentum"])
        return u


class Lion(Elementwise):
    """Sign of an interpolation of momentum and gradient; weight decay is decoupled. See `lion`."""

    buffers = ("exp_avg",)

    def __init__(self, params: Any, lr: float = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay, betas=betas)

    def direction(self, group: dict[str, Any], g: Tensor, state: dict[str, Any]) -> Tensor:
        u, state["exp_avg"] = lion(g, state["exp_avg"], *group["betas"])
        return u


class AdamAtan2(Elementwise):
    """Adam with atan2 in the place of division and epsilon; weight decay is decoupled. See `adam_atan2`."""

    buffers = ("exp_avg", "exp_avg_sq")

    def __init__(self, params: Any, lr: float = 1e-3, betas: Betas = (0.9, 0.999), weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, weight_decay, betas=betas)

    def direction(self, group: dict[str, Any], g: Tensor, state: dict[str, Any]) -> Tensor:
        moments = adam_atan2(g, state["exp_avg"], state["exp_avg_sq"], state["step"], *group["betas"])
        u, state["exp_avg"], state["exp_avg_sq"] = moments
        return u
