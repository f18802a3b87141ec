"""How an optimizer's updates scale, tensor by tensor: all that the rules need to know of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from mupl.errors import ConfigError
from mupl.parametrization.cells import Monomial
from mupl.roles import Info


class UpdateKind(StrEnum):
    """What the size of an update follows from; each column of a rule table belongs to one kind."""

    SGD = "sgd"  # the gradient: updates are proportional to it
    ADAM = "adam"  # lr alone: entries have size lr (Adam, Lion, sign-SGD, ...)
    ORTHOGONAL = "orthogonal"  # lr alone: singular values have size lr (Muon, Shampoo)


@dataclass(frozen=True)
class OptimizerRules:
    """Which kind of update each tensor gets under one optimizer, and what it makes of shapes.

    Args:
        kind_of: tensor -> update kind.
        shape_factors: update kind -> cells in fan_in and fan_out. An update of that kind is
            multiplied by the largest of them, beside lr; by 1 if the kind is not among the keys.
        idle_steps: number of steps at the start of training that only gather statistics.
    """

    kind_of: Callable[[Info], str]
    shape_factors: Mapping[str, Sequence[Monomial]] = field(default_factory=dict)
    idle_steps: int = 0

    def shape_cells(self, info: Info) -> Sequence[Monomial]:
        """Return the cells of which the largest is `shape_factor`."""
        return self.shape_factors.get(self.kind_of(info), (Monomial(),))

    def shape_factor(self, info: Info) -> float:
        """Return what the optimizer multiplies an update of this shape by, beside lr."""
        return largest(self.shape_cells(info), info.symbols["fan_out"], info.symbols["fan_in"])

    def relative_shape_factor(self, info: Info) -> float:
        """Return `shape_factor` over its value at the base width."""
        symbols = info.symbols
        base_fan_out = symbols["fan_out"] / symbols["m_out"]
        base_fan_in = symbols["fan_in"] / symbols["m_in"]
        return self.shape_factor(info) / largest(self.shape_cells(info), base_fan_out, base_fan_in)


def largest(cells: Sequence[Monomial], fan_out: float, fan_in: float) -> float:
    """Return the largest of some cells in fan_out and fan_in."""
    return max(cell(fan_out=fan_out, fan_in=fan_in) for cell in cells)


def as_optimizer_rules(optimizer: UpdateKind | str | OptimizerRules) -> OptimizerRules:
    """Return rules as they are; an update kind stands for an optimizer with no other updates.

    Raises:
        ConfigError: if there is no such update kind.
    """
    if isinstance(optimizer, OptimizerRules):
        return optimizer
    if optimizer not in list(UpdateKind):
        raise ConfigError(f"update_kind={optimizer}: must be one of {', '.join(UpdateKind)}")
    return OptimizerRules(partial(_same_kind, str(optimizer)))


def _same_kind(kind: str, info: Info) -> str:  # not a lambda, which could not be pickled
    return kind
