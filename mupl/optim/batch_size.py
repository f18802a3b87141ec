"""Adam's hyperparameters that were tuned at one batch size and training length, at another."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.optim.registry import unwrapped
from mupl.parametrization.hyperparameters import (
    BATCH_GROWTH,
    SIZE_RULES,
    Powers,
    word_problems,
)


@dataclass(frozen=True)
class BatchScaling:
    """Carry hyperparameters from one batch size and number of examples to others.

    The rules are `mupl.parametrization.hyperparameters.SIZE_RULES`: powers of m_B and m_D. With
    kappa = m_B / m_D, base steps over steps,

    - `none`: nothing changes;
    - `sqrt`: `lr *= sqrt(kappa)` (Krizhevsky 2014 for the batch size; see Malladi et al. 2022 for
      Adam);
    - `sde`: also `1 - beta *= kappa`, `weight_decay *= sqrt(kappa)` and `eps /= sqrt(m_B)`;
    - `timescale`: `weight_decay *= kappa`, so that lr * weight_decay * steps stays (Wang &
      Aitchison 2024);
    - `horizon`: `lr *= m_D^-0.32` (Bjorck et al. 2024, fitted at one batch size);
    - `hyperp`: `lr *= sqrt(m_B) m_D^-0.32` (arXiv 2603.28743);
    - `scion`: `lr *= m_B^0.62 m_D^-0.56` (arXiv 2510.03871, fitted under Scion).

    At m_D = 1 `sde` is the rule under which Adam's steps follow one stochastic differential
    equation in the time lr^2 * steps (Malladi et al. 2022), with weight decay at one rate in that
    time (AdamW multiplies it by lr). For more examples it keeps the end of that time, as
    Mlodozeniec et al. (2025) propose; eps is compared with the noise of a gradient, which depends
    on the batch size alone.

    Args:
        rule: one of `SIZE_RULES`.
        m_B, m_D: batch size and number of examples (of tokens) over the base's.

    Raises:
        ConfigError: on an unknown rule or sizes that are not positive.

    >>> BatchScaling("sqrt", m_B=4.0).values(lr=0.1, eps=1e-8, weight_decay=0.0)["lr"]
    0.2
    """

    rule: str = "none"
    m_B: float = 1.0
    m_D: float = 1.0

    def __post_init__(self) -> None:
        for problem in word_problems("batch_scaling", self.rule, tuple(SIZE_RULES)):
            raise ConfigError(problem)
        if not (self.m_B > 0 and self.m_D > 0):
            raise ConfigError(
                f"batch_scaling: sizes must be positive, not {self.m_B} and {self.m_D} times those "
                "of the base"
            )

    def values(self, lr: float, eps: float, weight_decay: float) -> dict[str, float]:
        """Return lr, eps and weight_decay at this size, by name, from those at the base."""
        rule = SIZE_RULES[self.rule]
        return {
            "lr": lr * rule.lr(self.m_B, self.m_D),
            "eps": eps * rule.eps(self.m_B, self.m_D),
            "weight_decay": weight_decay * rule.weight_decay(self.m_B, self.m_D),
        }

    def optimizer(self, constructor: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
        """Give the constructor the betas of this size.

        Raises:
            ConfigError: under a rule that changes betas (`sde`), for an optimizer without any, or
                if one would not stay in [0, 1).
        """
        forgetting = SIZE_RULES[self.rule].forgetting
        if forgetting == Powers():
            return constructor
        given = inspect.signature(constructor).parameters.get("betas")
        if given is None:
            raise ConfigError(
                f"batch_scaling={self.rule}: is a rule for Adam and AdamW, the optimizer has no "
                "betas"
            )
        faster = forgetting(self.m_B, self.m_D)
        betas = tuple(1 - faster * (1 - beta) for beta in given.default)
        if min(betas) < 0:
            shown = ", ".join(f"{beta:g}" for beta in betas)
            raise ConfigError(
                f"batch_scaling={self.rule}: betas would be {shown}; the batch is too large"
            )
        # Hydra nests its partials, which would hide the optimizer: make one of all
        optimizer_class, options = unwrapped(constructor)
        return partial(optimizer_class, **options | {"betas": betas})


def grown_batch_size(base_batch_size: int, m_D: float, rule: str = "power_lines") -> int:
    """Return the best batch size for m_D times as many examples, `base_batch_size * m_D^p`.

    It says how large batches should be; what lr then is, is `BatchScaling`'s to say.

    Args:
        base_batch_size: the best one for the base's number of examples.
        m_D: number of examples (of tokens) over the base's.
        rule: one of `mupl.parametrization.hyperparameters.BATCH_GROWTH`: power_lines (p = 0.383,
            arXiv 2505.13738) or scion (p = 0.45, arXiv 2510.03871).

    Raises:
        ConfigError: on an unknown rule, or a number of examples that is not positive.

    >>> grown_batch_size(32, m_D=16)
    93
    """
    for problem in word_problems("rule", rule, tuple(BATCH_GROWTH)):
        raise ConfigError(problem)
    if not m_D > 0:
        raise ConfigError(f"m_D={m_D}: must be above 0")
    return max(1, round(base_batch_size * m_D ** BATCH_GROWTH[rule]))
