"""Learning-rate schedules: a factor on every lr that depends on how much training is done."""

import math
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mupl.errors import ConfigError

SHAPES = ("constant", "linear", "cosine", "step", "inverse_sqrt")


@dataclass(frozen=True)
class Schedule:
    """Multiply all learning rates by a factor in [0, 1].

    As a factor it keeps the ratios between param groups that a parametrization sets. With t the
    fraction of training done, it rises linearly from 0 to 1 during `warmup`, stays 1, then decays
    during the last `decay` of training. With s in [0, 1] the fraction of the decay done it is

    - `constant`: 1;
    - `linear`: `1 - (1 - final) s`;
    - `cosine`: `final + (1 - final) (1 + cos(pi s)) / 2`;
    - `step`: `gamma^k` after k of `milestones` (fractions of the decay) have passed;
    - `inverse_sqrt`: `sqrt(t0 / t)` with t0 the fraction where the decay starts (hence warmup > 0
      or decay < 1).

    Args:
        shape: one of `SHAPES`.
        warmup: fraction of training.
        decay: fraction of training; by default all that is left after warm-up.
        final: factor at the end (linear, cosine).
        gamma: factor at a milestone (step).
        milestones: fractions of the decay (step).

    Raises:
        ConfigError: naming the key out of range.

    >>> schedule = Schedule("linear", warmup=0.2)
    >>> [round(schedule.at(t), 2) for t in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    >>> [round(schedule(k, max_steps=4), 3) for k in range(4)]
    [0.625, 0.781, 0.469, 0.156]
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
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise ConfigError(f"scheduler.{key}={value}: must be in [0, 1]")
        if self.decay is not None and not 0 <= self.decay <= 1 - self.warmup:
            raise ConfigError(f"scheduler.decay={self.decay}: must be in [0, 1 - warmup]")
        if self.shape == "inverse_sqrt" and self._decay_start <= 0:
            raise ConfigError(
                "scheduler.warmup=0: inverse_sqrt needs a warm-up > 0, or a decay < 1"
            )

    def __call__(self, k: int, max_steps: int) -> float:
        """Return the factor of update number k, from 0.

        It is the factor at the middle of the step, t = (k + 1/2) / max_steps, so that neither the
        first update of a warm-up nor the last one of a decay to 0 is lost.
        """
        return self.at((k + 0.5) / max_steps)

    def at(self, fraction: float) -> float:
        """Return the factor when this fraction of training is done."""
        if fraction < self.warmup:
            return fraction / self.warmup
        start = self._decay_start
        if self.shape == "constant" or fraction <= start:
            return 1.0
        if self.shape == "inverse_sqrt":
            return math.sqrt(start / fraction)
        decayed = min((fraction - start) / (1 - start), 1.0)
        if self.shape == "step":
            passed = [milestone for milestone in self.milestones if decayed >= milestone]
            return self.gamma ** len(passed)
        if self.shape == "cosine":
            decayed = (1 - math.cos(math.pi * decayed)) / 2
        return 1 - (1 - self.final) * decayed

    def scheduler(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        """Make a torch scheduler, to be stepped after every update."""
        return LambdaLR(optimizer, lambda k: self(k, max_steps))

    @property
    def _decay_start(self) -> float:
        """Return the fraction of training at which the decay starts."""
        return self.warmup if self.decay is None else 1 - self.decay


def as_schedule(schedule: Schedule | None) -> Schedule:
    """Return the schedule, which is constant if none is given; refuse what is none."""
    if schedule is None:
        return Schedule()
    if not isinstance(schedule, Schedule):
        raise ConfigError(
            f"schedule={schedule}: must be a mupl.optim.schedules.Schedule, such as "
            'Schedule("cosine", warmup=0.1)'
        )
    return schedule
