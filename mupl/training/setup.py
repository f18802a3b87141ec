"""What is trained and how: all but the loop."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.nn.initialize import initialize_, parameters
from mupl.nn.unit_scaling import scales_gradients
from mupl.optim.groups import build_optimizer
from mupl.optim.registry import OptimizerLike, optimizer_rules, resolve
from mupl.optim.scaling import scale
from mupl.optim.schedules import Schedule
from mupl.parametrization.exponents import Expected, expected_exponents
from mupl.parametrization.rules import Parametrization, get_parametrization
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind, as_optimizer_rules
from mupl.roles import Build, Width, describe


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (..., C) against class indices (...)."""
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


class Setup:
    """How `build(width)` is trained on batches `(x, target)` with hyperparameters that were tuned at `base_width`.

    Args:
        build: `width -> nn.Module`, any module; called also at the base width and at twice that, to find the roles.
        width: whatever `build` takes.
        base_width: where `lr`, `eps` and `weight_decay` are right; there every parametrization is the standard one.
        depth, base_depth: likewise of blocks, for `build(width, depth=depth)`; without them no rules in depth.
        parametrization: by name (see `mupl.parametrization.tables`) or as an object.
        optimizer: by name (see `mupl.optim.registry`), a torch optimizer class, or a `functools.partial` of one.
        weight_decay_mode: "coupled", "decoupled" (lr * wd constant in width) or "independent" (constant in lr too).
        schedule: factor on all learning rates over training.
        loss: `(model output, target) -> scalar`.
        roles, init: see `describe`.
        update_kind: how the optimizer's updates scale ("sgd", "adam", "orthogonal"), for an optimizer that mupl does not know.
        seed: of the initial weights.

    Under `torch.device("meta")` it describes a training without holding any weights, as a stack's members do.

    Raises:
        ConfigError: on bad values, or a tensor that cannot be classified.
    """

    def __init__(
        self,
        build: Build,
        width: Width,
        *,
        base_width: Width,
        depth: int | None = None,
        base_depth: int | None = None,
        lr: float,
        parametrization: str | Parametrization = "mup",
        optimizer: OptimizerLike = "adamw",
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        weight_decay_mode: str = "decoupled",
        schedule: Schedule | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        roles: Mapping[str, str] | None = None,
        init: Mapping[str, Mapping[str, Any]] | None = None,
        update_kind: UpdateKind | str | OptimizerRules | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(parametrization, str):
            parametrization = get_parametrization(parametrization)
        self.optimizer_class = resolve(optimizer)
        self.schedule = schedule or Schedule()
        self.seed = seed
        self.loss = loss
        self.parametrization = parametrization
        self.optimizer_rules = (
            as_optimizer_rules(update_kind)
            if update_kind
            else optimizer_rules(self.optimizer_class)
        )
        self.build = partial(build, width) if depth is None else partial(build, width, depth=depth)
        self.infos = describe(
            build, width, base_width, depth=depth, base_depth=base_depth, roles=roles, init=init
        )
        self._tune(lr=lr, eps=eps, weight_decay=weight_decay, weight_decay_mode=weight_decay_mode)
        self.model = initialize_(self.build(), self.scales, torch.Generator().manual_seed(seed))

    def _tune(self, *, lr: float, **others: Any) -> None:
        self.lr = lr
        self.scales = scale(self.infos, self.parametrization, self.optimizer_rules, lr=lr, **others)

    def varied(self, seed: int, **tuned: Any) -> Self:
        """The same with another seed, lr, eps, weight_decay and weight_decay_mode; shares the model, which must hold no
        weights."""
        other = copy.copy(self)
        other._tune(**tuned)
        other.seed = seed
        return other

    def build_optimizer(self) -> Optimizer:
        """The optimizer over the param groups of `scales`."""
        return build_optimizer(
            self.optimizer_class, parameters(self.model, self.scales), self.scales
        )

    def expected_exponents(
        self, t: int, decay: bool = False, along: str = "width"
    ) -> dict[tuple[str, str], Expected]:
        """What a coordinate check must see after t updates; see `mupl.parametrization.exponents`.

        Nothing is said of updates under weight decay that is part of the gradient (SGD's, Adam's).

        Raises:
            ConfigError: for unit-scaled operations under SGD, of whose gradients no exponents are known.
        """
        if scales_gradients(self.model) and any(
            scale.update_kind == "sgd" for scale in self.scales.values()
        ):
            raise ConfigError(
                "callbacks.coordinates.predict: unit-scaled operations give SGD gradients that are not those of the "
                "loss; say optimizer=adam or callbacks.coordinates.predict=false"
            )
        expected = expected_exponents(
            self.infos, self.parametrization, self.optimizer_rules, t, decay, along
        )
        mixed = not decay and any(scale.weight_decay for scale in self.scales.values())
        return {key: value for key, value in expected.items() if not (mixed and key[0] == "update")}
