"""Adam's hyperparameters that were tuned at one batch size and training length, at another."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.optim.registry import unwrapped
from mupl.parametrization.hyperparameters import BATCH_SCALINGS, word_problems


@dataclass(frozen=True)
class BatchScaling:
    """Carry hyperparameters from one batch size and number of examples to others.

    With m_B = batch size / base batch size, m_D = examples / base examples and kappa = m_B / m_D:

    - `none`: nothing changes;
    - `sqrt`: `lr *= sqrt(kappa)` (Krizhevsky 2014 for the batch size; see Malladi et al. 2022 for
      Adam);
    - `sde`: also `1 - beta *= kappa`, `weight_decay *= sqrt(kappa)` and `eps /= sqrt(m_B)`.

    At m_D = 1 the last one is the rule under which Adam's steps follow one stochastic differential
    equation in the time lr^2 * steps (Malladi et al. 2022), with weight decay at one rate in that
    time (AdamW multiplies it by lr). For more examples it keeps the end of that time, as
    Mlodozeniec et al. (2025) propose; eps is compared with the noise of a gradient, which depends
    on the batch size alone.

    Args:
        rule: none, sqrt or sde.
        m_B, m_D: batch size and number of examples over those of the base.

    Raises:
        ConfigError: on an unknown rule or sizes that are not positive.

    >>> BatchScaling("sqrt", m_B=4.0).values(lr=0.1, eps=1e-8, weight_decay=0.0)["lr"]
    0.2
    """

    rule: str = "none"
    m_B: float = 1.0
    m_D: float = 1.0

    def __post_init__(self) -> None:
        for problem in word_problems("batch_scaling", self.rule, BATCH_SCALINGS):
            raise ConfigError(problem)
        if not (self.m_B > 0 and self.m_D > 0):
            raise ConfigError(
                f"batch_scaling: sizes must be positive, not {self.m_B} and {self.m_D} times those "
                "of the base"
            )

    @property
    def kappa(self) -> float:
        """Return m_B / m_D: base steps over steps."""
        return self.m_B / self.m_D

    def values(self, lr: float, eps: float, weight_decay: float) -> dict[str, float]:
        """Return lr, eps and weight_decay at this size, by name, from those at the base."""
        root = math.sqrt(self.kappa)
        if self.rule in ("sqrt", "sde"):
            lr *= root
        if self.rule == "sde":
            eps /= math.sqrt(self.m_B)
            weight_decay *= root
        return {"lr": lr, "eps": eps, "weight_decay": weight_decay}

    def optimizer(self, constructor: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
        """Give the constructor the betas of this size.

        Raises:
            ConfigError: under `sde`, for an optimizer without betas, or if one would not stay in
                [0, 1).
        """
        if self.rule != "sde":
            return constructor
        given = inspect.signature(constructor).parameters.get("betas")
        if given is None:
            raise ConfigError(
                "batch_scaling=sde: is a rule for Adam and AdamW, the optimizer has no betas"
            )
        betas = tuple(1 - self.kappa * (1 - beta) for beta in given.default)
        if min(betas) < 0:
            shown = ", ".join(f"{beta:g}" for beta in betas)
            raise ConfigError(f"batch_scaling=sde: betas would be {shown}; the batch is too large")
        # Hydra nests its partials, which would hide the optimizer: make one of all
        optimizer_class, options = unwrapped(constructor)
        return partial(optimizer_class, **options | {"betas": betas})
