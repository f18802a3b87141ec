"""What the hyperparameters that are tuned at the base width may be.

Nothing here needs torch, so that wrong values of a command line are refused before it is imported.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

from mupl.errors import ConfigError

# Beside these a mode may be a number p: lr * weight_decay ~ m_in^-p. "decoupled" is p = 0.
WEIGHT_DECAY_MODES = ("coupled", "decoupled", "independent")
# What may be multiplied for each module; see `mupl.parametrization.per_module`
FACTORS = ("lr", "weight_decay", "eps", "init", "mult")


class Powers(NamedTuple):
    """The cell `m_B^batch * m_D^examples`: batch size and number of examples over the base's."""

    batch: float = 0.0
    examples: float = 0.0

    def __call__(self, m_B: float, m_D: float) -> float:
        """Return the number that the cell stands for."""
        return float(m_B**self.batch * m_D**self.examples)


_UNCHANGED = Powers()


@dataclass(frozen=True)
class SizeRule:
    """What lr, eps, weight decay and each 1 - beta are multiplied by at another size of training.

    Args:
        source: where the rule is from.
    """

    source: str
    lr: Powers = _UNCHANGED
    eps: Powers = _UNCHANGED
    weight_decay: Powers = _UNCHANGED
    forgetting: Powers = _UNCHANGED


# A new rule is one more entry
SIZE_RULES: dict[str, SizeRule] = {
    "none": SizeRule("nothing changes"),
    "sqrt": SizeRule("Krizhevsky 2014; Malladi et al. 2022", lr=Powers(1 / 2, -1 / 2)),
    # the steps follow one stochastic differential equation, to the same end
    "sde": SizeRule(
        "Malladi et al. 2022; Mlodozeniec et al. 2025",
        lr=Powers(1 / 2, -1 / 2),
        eps=Powers(-1 / 2, 0),
        weight_decay=Powers(1 / 2, -1 / 2),
        forgetting=Powers(1, -1),
    ),
    # lr * weight_decay * steps stays: weights average over the same part of training
    "timescale": SizeRule("Wang & Aitchison 2024", weight_decay=Powers(1, -1)),
    "horizon": SizeRule("Bjorck et al. 2024", lr=Powers(0, -0.32)),
    "hyperp": SizeRule("HyperP, arXiv 2603.28743, 2026", lr=Powers(1 / 2, -0.32)),
    "scion": SizeRule("fitted under Scion, arXiv 2510.03871, 2025", lr=Powers(0.62, -0.56)),
}
# The best batch size grows with the number of examples to this power
BATCH_GROWTH: dict[str, float] = {
    "power_lines": 0.383,  # Bergsma et al. 2025, arXiv 2505.13738
    "scion": 0.45,  # arXiv 2510.03871, 2025
}


def check_hyperparameters(
    lr: float, eps: float, weight_decay: float, weight_decay_mode: str | float
) -> None:
    """Check that lr > 0, eps >= 0, weight_decay >= 0 and that the mode is known or a number.

    Raises:
        ConfigError: naming the key.
    """
    for key, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        for problem in number_problems(key, value):
            raise ConfigError(problem)
    for problem in mode_problems("weight_decay_mode", weight_decay_mode):
        raise ConfigError(problem)


def decay_exponent(weight_decay_mode: str | float) -> float:
    """Return p of lr * weight_decay ~ m_in^-p: of a number it is the number, else 0."""
    return 0.0 if isinstance(weight_decay_mode, str) else float(weight_decay_mode)


def number_problems(key: str, value: Any) -> Iterator[str]:
    """Say what is wrong with a hyperparameter: it must be finite, and at least 0; lr above 0."""
    bound = "> 0" if key == "lr" else ">= 0"
    if not _is_number(value) or (key == "lr" and value == 0):
        kind = "" if isinstance(value, Real | None) else f", not a {type(value).__name__}"
        yield f"{key}={value}: must be a finite number {bound}{kind}"


def mode_problems(key: str, value: Any) -> Iterator[str]:
    """Say what a weight decay mode must be, if it is neither a known word nor an exponent."""
    if value not in WEIGHT_DECAY_MODES and not _is_number(value):
        words = ", ".join(WEIGHT_DECAY_MODES)
        yield f"{key}={value}: must be one of {words}, or a number p >= 0 (lr * wd ~ m_in^-p)"


def tune_problems(key: str, value: Any) -> Iterator[str]:
    """Say what is wrong with factors by module: `{name: {factor: number, of: globs}}`."""
    if not isinstance(value, Mapping):
        yield f"{key}={value}: must be by role or glob, such as {key}.hidden.lr=2"
        return
    for name, entry in value.items():
        if not isinstance(entry, Mapping) or not entry:
            yield f"{key}.{name}={entry}: must have factors, such as {key}.{name}.lr=2"
            continue
        for factor, number in entry.items():
            yield from _factor_problems(f"{key}.{name}", str(factor), number)


def _factor_problems(key: str, factor: str, value: Any) -> Iterator[str]:
    if factor == "of":
        globs = [value] if isinstance(value, str) else value
        if not isinstance(globs, Sequence) or not all(isinstance(glob, str) for glob in globs):
            yield f"{key}.of={value}: must be a role or a glob, or a list of them"
    elif factor not in FACTORS:
        yield f"{key}.{factor}: there is no such factor; there are {', '.join(FACTORS)}, and of"
    elif not _is_number(value) or (factor == "lr" and value == 0):
        bound = "> 0" if factor == "lr" else ">= 0"
        yield f"{key}.{factor}={value}: must be a finite number {bound}, a factor"


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number of at least 0."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return 0 <= float(value) < math.inf


def word_problems(key: str, value: Any, known: tuple[str, ...]) -> Iterator[str]:
    """Say what a word must be, if it is not one of those known."""
    if str(value) not in known:
        yield f"{key}={value}: must be one of {', '.join(known)}"
