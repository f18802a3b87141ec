"""Learning-rate schedules: a factor on every group's lr, as a function of the fraction of training done."""

import math
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mupl.errors import ConfigError

SHAPES = ("constant", "linear", "cosine", "step", "inverse_sqrt")


@dataclass(frozen=True)
class Schedule:
    """A factor in [0, 1]; being a factor it keeps the ratios between param groups that a parametrization sets.

    With t the fraction of training done, it rises linearly from 0 to 1 during `warmup`, stays 1, then decays during the
    last `decay` of training; with s in [0, 1] the fraction of the decay done:

    - `constant`: 1; `linear`: `1 - (1 - final) s`; `cosine`: `final + (1 - final) (1 + cos(pi s)) / 2`;
    - `step`: `gamma^k` after k of `milestones` (fractions of the decay) have passed;
    - `inverse_sqrt`: `sqrt(t0 / t)` with t0 the fraction where the decay starts (hence warmup > 0 or decay < 1).

    Args:
        shape: one of `SHAPES`.
        warmup: fraction of training; `decay`: fraction, by default all that is left after warm-up.
        final: factor at the end (linear, cosine).

    Raises:
        ConfigError: naming the key out of range.
    """

    shape: str = "constant"
    warmup: float = 0.0
    decay: float | None = None
    final: float = 0.0
    gamma: float = 0.1
    milestones: tuple[float, ...] = (0.5, 0.75)

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigError(f"scheduler.shape={self.shape}: must be one of {', '.join(SHAPES)}")
        for key in ("warmup", "final", "gamma"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"scheduler.{key}={getattr(self, key)}: must be in [0, 1]")
        if self.decay is not None and not 0 <= self.decay <= 1 - self.warmup:
            raise ConfigError(f"scheduler.decay={self.decay}: must be in [0, 1 - warmup]")
        if self.shape == "inverse_sqrt" and self._start <= 0:
            raise ConfigError(
                "scheduler.warmup=0: inverse_sqrt needs a warm-up > 0, or a decay < 1"
            )

    @property
    def _start(self) -> float:
        return self.warmup if self.decay is None else 1 - self.decay

    def at(self, t: float) -> float:
        """The factor when the fraction t of training is done."""
        if t < self.warmup:
            return t / self.warmup
        start = self._start
        if self.shape == "constant" or t <= start:
            return 1.0
        if self.shape == "inverse_sqrt":
            return math.sqrt(start / t)
        s = min((t - start) / (1 - start), 1.0)
        if self.shape == "step":
            return self.gamma ** sum(s >= milestone for milestone in self.milestones)
        fall = s if self.shape == "linear" else (1 - math.cos(math.pi * s)) / 2
        return 1 - (1 - self.final) * fall

    def scheduler(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        """A torch scheduler, to be stepped after every update."""
        return LambdaLR(optimizer, lambda k: self(k, max_steps))

    def __call__(self, k: int, max_steps: int) -> float:
        """The factor of update number k (from 0): that at the middle of its step, t = (k + 1/2) / max_steps, so that
        neither the first update of a warm-up nor the last one of a decay to 0 is lost."""
        return self.at((k + 0.5) / max_steps)
