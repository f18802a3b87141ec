"""What our own optimizers share: param groups, decoupled weight decay, gradients only read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind, as_optimizer_rules


def _check_averages(options: Mapping[str, Any]) -> None:
    """Check the weights of moving averages, which torch's own optimizers check themselves.

    Raises:
        ConfigError: naming the option that is not in [0, 1).
    """
    for key in ("momentum", "betas"):
        if key not in options:
            continue
        weights = [options[key]] if key == "momentum" else list(options[key])
        if not all(0 <= weight < 1 for weight in weights):
            raise ConfigError(f"optimizer.{key}={options[key]}: must be in [0, 1)")


class HasRules(Optimizer, ABC):
    """An optimizer that says itself how its updates scale."""

    @classmethod
    @abstractmethod
    def rules(cls, **options: Any) -> OptimizerRules:
        """The scaling rules of an optimizer that is constructed with these options."""


class DirectionOptimizer(HasRules):
    """`w <- w - lr (weight_decay w + u)`, with a direction u of gradient and state.

    A subclass makes the direction. Gradients are only read. State is kept by tensor and
    hyperparameters by param group, as in any torch optimizer.

    Attributes:
        update_kind: how the size of its updates follows from the gradient, for every tensor; see
            `rules`.
    """

    update_kind: ClassVar[UpdateKind]

    @classmethod
    def rules(cls, **options: Any) -> OptimizerRules:
        return as_optimizer_rules(cls.update_kind)

    def __init__(
        self,
        params: Any,
        lr: float,
        weight_decay: float,
        **options: Any,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, **options}
        # says to readers of the groups, as in torch's AdamW, that weight decay is no part of the
        # gradient
        defaults["decoupled_weight_decay"] = True
        _check_averages(options)
        super().__init__(params, defaults)

    @abstractmethod
    def update(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        """Move the weights of a group that have gradients."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if weights:
                self.update(group, weights)
        return loss
