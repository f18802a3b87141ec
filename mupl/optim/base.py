"""What our own optimizers have in common: param groups, decoupled weight decay, and no touching of gradients."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class DirectionOptimizer(Optimizer, ABC):
    """`w <- w - lr (weight_decay w + u)` with u a direction that a subclass makes of gradient and state.

    Gradients are only read. State is by tensor, hyperparameters by param group, as in any torch optimizer.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float, **options: Any) -> None:
        # the flag says to readers of the groups, as in torch's AdamW, that weight decay is no part of the gradient
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay, "decoupled_weight_decay": True, **options},
        )

    @abstractmethod
    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        """Move the weights of a group that have gradients."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if weights := [w for w in group["params"] if w.grad is not None]:
                self.update(group, weights)
        return loss
