"""What the rules need to know of an optimizer: how the updates that it makes scale, tensor by tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mupl.roles import ParamInfo


@dataclass(frozen=True)
class Family:
    """The rules that each tensor follows under one optimizer.

    Args:
        of: tensor -> "sgd" (update proportional to the gradient), "adam" (entries of size lr whatever the gradient) or
            "orthogonal" (singular values of size lr whatever the gradient).
        factor: (family, fan_out, fan_in) -> what the optimizer itself multiplies such an update by, beside lr.
        idle: number of steps at the start of training that only gather statistics and move nothing.
    """

    of: Callable[[ParamInfo], str]
    factor: Callable[[str, float, float], float]
    idle: int = 0

    def own(self, info: ParamInfo) -> float:
        """The optimizer's factor for a tensor over that for the same tensor at the base width."""
        family = self.of(info)
        base = self.factor(family, info.fan_out / info.m_out, info.fan_in / info.m_in)
        return self.factor(family, info.fan_out, info.fan_in) / base


def as_family(family: "str | Family") -> Family:
    """A family's name stands for an optimizer under which every tensor follows it."""
    return Family(partial(_always, family), partial(_always, 1.0)) if isinstance(family, str) else family


def _always(value: Any, *_: object) -> Any:  # no lambda: a TrainingModule can be pickled
    return value
