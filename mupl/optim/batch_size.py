"""Hyperparameters of Adam that were tuned at one batch size and training length, at another."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.optim.registry import unwrapped

RULES = ("none", "sqrt", "sde")


@dataclass(frozen=True)
class BatchScaling:
    """With m_B = batch size / base batch size, m_D = examples / base examples and kappa = m_B / m_D:

    - `sqrt`: `lr *= sqrt(kappa)` (Krizhevsky 2014 for the batch size; see Malladi et al. 2022 for Adam);
    - `sde`: also `1 - beta *= kappa`, `weight_decay *= sqrt(kappa)` and `eps /= sqrt(m_B)`.

    At m_D = 1 the latter is the rule under which Adam's steps follow one stochastic differential equation in the time
    lr^2 * steps (Malladi et al. 2022), with weight decay at one rate in that time (AdamW multiplies it by lr). For more
    examples it keeps the end of that time, as Mlodozeniec et al. (2025) propose; eps is compared with the noise of a
    gradient, which knows of the batch size alone.

    Raises:
        ConfigError: on an unknown rule or sizes that are not positive.
    """

    rule: str = "none"
    m_B: float = 1.0
    m_D: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"batch_scaling={self.rule}: must be one of {', '.join(RULES)}")
        if not (self.m_B > 0 and self.m_D > 0):
            raise ConfigError(
                f"batch_scaling: sizes must be positive, not {self.m_B} and {self.m_D} times the base's"
            )

    def values(self, lr: float, eps: float, weight_decay: float) -> dict[str, float]:
        """lr, eps and weight_decay at this size, by name, from those at the base."""
        root = math.sqrt(self.m_B / self.m_D)
        if self.rule != "none":
            lr *= root
        if self.rule == "sde":
            eps, weight_decay = eps / math.sqrt(self.m_B), weight_decay * root
        return {"lr": lr, "eps": eps, "weight_decay": weight_decay}

    def optimizer(self, constructor: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
        """The constructor with the betas of this size.

        Raises:
            ConfigError: under `sde`, for an optimizer without betas, or if one would not stay in [0, 1).
        """
        if self.rule != "sde":
            return constructor
        given = inspect.signature(constructor).parameters.get("betas")
        if given is None:
            raise ConfigError(
                "batch_scaling=sde: is a rule for Adam and AdamW, the optimizer has no betas"
            )
        betas = tuple(1 - self.m_B / self.m_D * (1 - beta) for beta in given.default)
        if min(betas) < 0:
            raise ConfigError(
                f"batch_scaling=sde: betas would be {', '.join(f'{beta:g}' for beta in betas)}; the batch is too large"
            )
        inner, chosen = unwrapped(
            constructor
        )  # Hydra's partials stay one in the other, and hide the optimizer
        return partial(inner, **chosen | {"betas": betas})
