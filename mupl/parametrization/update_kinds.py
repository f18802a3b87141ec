"""How an optimizer's updates scale, tensor by tensor: all that the rules need to know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from mupl.roles import ParamInfo


class UpdateKind(StrEnum):
    """What the size of an update follows from; each column of a rule table belongs to one kind."""

    SGD = "sgd"  # proportional to the gradient
    ADAM = (
        "adam"  # entries of size lr, whatever the scale of the gradient (Adam, Lion, sign-SGD, ...)
    )
    ORTHOGONAL = "orthogonal"  # singular values of size lr, whatever the scale of the gradient (Muon, Shampoo)


@dataclass(frozen=True)
class OptimizerRules:
    """Which kind of update each tensor gets under one optimizer.

    Args:
        kind_of: tensor -> update kind.
        shape_factor: (update kind, fan_out, fan_in) -> what the optimizer multiplies such an update by, beside lr.
        idle_steps: number of steps at the start of training that only gather statistics and move nothing.
    """

    kind_of: Callable[[ParamInfo], str]
    shape_factor: Callable[[str, float, float], float]
    idle_steps: int = 0

    def relative_shape_factor(self, info: ParamInfo) -> float:
        """The optimizer's shape factor for a tensor over that for the same tensor at the base width."""
        kind = self.kind_of(info)
        base = self.shape_factor(kind, info.fan_out / info.m_out, info.fan_in / info.m_in)
        return self.shape_factor(kind, info.fan_out, info.fan_in) / base


def as_optimizer_rules(optimizer: "UpdateKind | str | OptimizerRules") -> OptimizerRules:
    """Rules as they are; an update kind stands for an optimizer all of whose updates are of that kind."""
    if isinstance(optimizer, OptimizerRules):
        return optimizer
    return OptimizerRules(partial(_always, str(optimizer)), partial(_always, 1.0))


def _always(value: Any, *_: object) -> Any:  # not a lambda, which could not be pickled
    return value
