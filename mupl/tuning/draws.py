"""Settings drawn from ranges: at random, or evenly by a scrambled Sobol sequence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mupl.errors import ConfigError

SAMPLERS = ("sobol", "random")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, evenly or evenly in their logarithm.

    Example:
        >>> Range(1, 100, log=True).at(0.5)
        10.0
    """

    low: float
    high: float
    log: bool = False

    def at(self, u: float) -> float:
        """Return the number at the share u of the range, to six digits."""
        if self.log:
            value = math.exp(math.log(self.low) + u * math.log(self.high / self.low))
        else:
            value = self.low + u * (self.high - self.low)
        return float(f"{value:.6g}")


Ranges = Mapping[str, Range | Sequence[Any]]  # by key: a range, or choices


def draw(ranges: Ranges, count: int, seed: int, sampler: str = "sobol") -> list[dict[str, Any]]:
    """Draw settings; the first ones of a larger count are the same, so that a sweep can grow.

    A point of the unit cube has a coordinate for each key, in the order of the keys. A Sobol
    sequence (Owen's scrambling) fills the cube more evenly than random points: each key takes each
    part of its range nearly equally often.

    Args:
        ranges: what each key is drawn from.
        count: of settings.
        sampler: one of `SAMPLERS`.

    Raises:
        ConfigError: on a range that is empty, or reaches 0 and is logarithmic; a count below 1; or
            another sampler.

    Example:
        >>> settings = draw({"lr": Range(1e-3, 1, log=True), "seed": [0, 1]}, count=4, seed=0)
        >>> len(settings), sorted(setting["seed"] for setting in settings)
        (4, [0, 0, 1, 1])
    """
    _check(ranges, count, sampler)
    settings = []
    for point in _points(len(ranges), count, seed, sampler):
        setting = {}
        for (key, values), u in zip(ranges.items(), point, strict=True):
            setting[key] = values.at(u) if isinstance(values, Range) else _choice(values, u)
        settings.append(setting)
    return settings


def _choice(values: Sequence[Any], u: float) -> Any:
    return values[min(int(u * len(values)), len(values) - 1)]


def _points(dimensions: int, count: int, seed: int, sampler: str) -> list[list[float]]:
    """Return points of the unit cube."""
    import numpy as np  # not before, as Hydra imports its plugins for every command
    from scipy.stats import qmc

    generator = np.random.default_rng(seed)
    if sampler == "random":
        return [generator.random(dimensions).tolist() for _ in range(count)]
    sobol = qmc.Sobol(dimensions, seed=generator)
    return sobol.random_base2(math.ceil(math.log2(count)))[:count].tolist()  # evenest as a whole


def _check(ranges: Ranges, count: int, sampler: str) -> None:
    if sampler not in SAMPLERS:
        raise ConfigError(f"hydra.sweeper.sampler={sampler}: must be one of {', '.join(SAMPLERS)}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"hydra.sweeper.settings={count}: must be a whole number >= 1")
    if not ranges:
        raise ConfigError(
            "hydra/sweeper=draws: nothing is drawn; say a range, such as "
            "lr=tag(log,interval(1e-4,1e-1)), or tag(draw,choice(1,2))"
        )
    for key, values in ranges.items():
        if not isinstance(values, Range):
            continue
        if not values.low < values.high or (values.log and values.low <= 0):
            above = " above 0" if values.log else ""
            raise ConfigError(
                f"{key}: interval({values.low:g},{values.high:g}) must go up from one number{above}"
                " to a larger one"
            )
