"""How an optimizer's updates scale, tensor by tensor: all that the rules need to know of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from mupl.errors import ConfigError
from mupl.parametrization.cells import Monomial
from mupl.roles import Info, ParamInfo


class UpdateKind(StrEnum):
    """What the size of an update follows from; each column of a rule table belongs to one kind."""

    SGD = "sgd"  # the gradient: updates are proportional to it
    ADAM = "adam"  # lr alone: entries have size lr (Adam, Lion, sign-SGD, ...)
    ORTHOGONAL = "orthogonal"  # lr alone: singular values have size lr (Muon, Shampoo)
    # lr alone: entries have size lr in a basis that turns with the gradient's (SOAP)
    ROTATED = "rotated"
    ROTATED_IN = "rotated_in"
    ROTATED_OUT = "rotated_out"


# What Adam's lr and eps are multiplied by where Adam works in the eigenbasis of these sides (Qiu et
# al. 2025). A gradient of few directions has its entries in few rows or columns of that basis. They
# are larger by the root of the side, so eps is; an update of entries lr is smaller by it, so lr is
# larger. A table need not say so: any that has columns of `adam` has these. One that has columns
# of such a kind of its own goes before.
ROTATIONS: dict[str, Monomial] = {
    UpdateKind.ROTATED: Monomial.parse("m_in^1/2*m_out^1/2"),
    UpdateKind.ROTATED_IN: Monomial.parse("m_in^1/2"),
    UpdateKind.ROTATED_OUT: Monomial.parse("m_out^1/2"),
}


@dataclass(frozen=True)
class OptimizerRules:
    """Which kind of update each tensor gets under one optimizer, and what it makes of shapes.

    Args:
        kind_of: tensor -> update kind.
        shape_factors: update kind -> cells in fan_in and fan_out. An update of that kind is
            multiplied by the largest of them, beside lr; by 1 if the kind is not among the keys.
        idle_steps: number of steps at the start of training that only gather statistics.
        settled: number of updates after which their size is the one that the update kinds tell.
        rotations: tensor -> what an update of few directions may be smaller by than one whose
            entries are lr; by default that of its kind (`ROTATIONS`).
    """

    kind_of: Callable[[Info], str]
    shape_factors: Mapping[str, Sequence[Monomial]] = field(default_factory=dict)
    idle_steps: int = 0
    settled: int = 0
    rotations: Callable[[Info], Monomial] | None = None

    def rotation(self, info: Info) -> Monomial:
        """Return what an update of few directions may be smaller by; 1 if nothing is rotated."""
        if self.rotations is not None:
            return self.rotations(info)
        return ROTATIONS.get(self.kind_of(info), Monomial())

    @property
    def check_steps(self) -> list[int]:
        """Return the steps at which a coordinate check looks at this optimizer.

        >>> OptimizerRules(str).check_steps, OptimizerRules(str, settled=6).check_steps
        ([0, 1, 2], [0, 1, 2, 4, 8, 16])
        """
        steps = [0, 1, 2]
        while self.settled and steps[-1] < 2 * self.settled:
            steps.append(2 * steps[-1])
        return steps

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


def kind_at_base(rules: OptimizerRules, info: ParamInfo) -> str:
    """Return the update kind that a tensor has at the base width.

    It differs from that at the described width where an optimizer treats tensors by their size.
    """
    across, growth = (info.m_out, info.m_in) if info.out_first else (info.m_in, info.m_out)
    shape = list(info.shape)
    if len(shape) > 1:
        shape[0] = round(shape[0] / across)
        shape[1] = round(shape[1] / growth)
    return rules.kind_of(replace(info, shape=tuple(shape)))


def largest(cells: Sequence[Monomial], fan_out: float, fan_in: float) -> float:
    """Return the largest of some cells in fan_out and fan_in."""
    return max(cell(fan_out=fan_out, fan_in=fan_in) for cell in cells)


def as_optimizer_rules(optimizer: UpdateKind | str | OptimizerRules) -> OptimizerRules:
    """Return rules as they are; an update kind stands for an optimizer with no other updates.

    Nobody rotates vectors, so they follow `adam` beside the kinds of a rotated basis.

    Raises:
        ConfigError: if there is no such update kind.
    """
    if isinstance(optimizer, OptimizerRules):
        return optimizer
    if optimizer not in list(UpdateKind):
        raise ConfigError(f"update_kind={optimizer}: must be one of {', '.join(UpdateKind)}")
    return OptimizerRules(partial(_same_kind, str(optimizer)))


def _same_kind(kind: str, info: Info) -> str:  # not a lambda, which could not be pickled
    return UpdateKind.ADAM if kind in ROTATIONS and len(info.shape) < 2 else kind
