"""What the hyperparameters that are tuned at the base width may be.

Nothing here needs torch, so that wrong values of a command line are refused before it is imported.
"""

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any

from mupl.errors import ConfigError

WEIGHT_DECAY_MODES = ("coupled", "decoupled", "independent")
BATCH_SCALINGS = ("none", "sqrt", "sde")  # see `mupl.optim.batch_size.BatchScaling`


def check_hyperparameters(
    lr: float, eps: float, weight_decay: float, weight_decay_mode: str
) -> None:
    """Check that lr > 0, eps >= 0, weight_decay >= 0 and that the mode is known.

    Raises:
        ConfigError: naming the key.
    """
    for key, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        for problem in number_problems(key, value):
            raise ConfigError(problem)
    for problem in word_problems("weight_decay_mode", weight_decay_mode, WEIGHT_DECAY_MODES):
        raise ConfigError(problem)


def number_problems(key: str, value: Any) -> Iterator[str]:
    """Say what is wrong with a hyperparameter: it must be finite, and at least 0; lr above 0."""
    bound = "> 0" if key == "lr" else ">= 0"
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf or (key == "lr" and value == 0):
        yield f"{key}={value}: must be a finite number {bound}"


def word_problems(key: str, value: Any, known: tuple[str, ...]) -> Iterator[str]:
    """Say what a word must be, if it is not one of those known."""
    if str(value) not in known:
        yield f"{key}={value}: must be one of {', '.join(known)}"
