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
    ORTHOGONAL = "orthogonal"  # lr alone: singular values have size lr (Muon)
    # lr alone: entries have size lr in a basis that turns with the gradient's (SOAP)
    ROTATED = "rotated"
    ROTATED_IN = "rotated_in"
    ROTATED_OUT = "rotated_out"
    SIGN = "sign"  # lr alone: entries have size lr times what the optimizer makes of shapes (Scion)
    NORMALIZED = "normalized"  # lr alone: the update is divided by its own norm
    # lr alone: singular values are at most lr, in however many directions (full Shampoo)
    WHITENED = "whitened"
    RELATIVE = "relative"  # lr and the tensor: the norm of the update is lr times its own
    RELATIVE_LOW_RANK = "relative_low_rank"  # the same, of an update that has few directions


# What Adam's lr and eps are multiplied by where Adam works in the eigenbasis of these sides (Qiu et
# al. 2025). A gradient of few directions has its entries in few rows or columns of that basis. They
# are larger by the root of the side, so eps is; an update of entries lr is smaller by it, so lr is
# larger.
ROTATIONS: dict[str, Monomial] = {
    UpdateKind.ROTATED: Monomial.parse("m_in^1/2*m_out^1/2"),
    UpdateKind.ROTATED_IN: Monomial.parse("m_in^1/2"),
    UpdateKind.ROTATED_OUT: Monomial.parse("m_out^1/2"),
}


_UNCHANGED = Monomial()


@dataclass(frozen=True)
class Derived:
    """How the columns of a kind follow from a table's columns of others.

    Args:
        lr_of: the kind whose lr it has; None: lr is 1.
        lr_factor: multiplies that lr.
        eps_factor: multiplies the eps of `adam`. All other columns are as in `adam`.
    """

    lr_of: UpdateKind | None
    lr_factor: Monomial = _UNCHANGED
    eps_factor: Monomial = _UNCHANGED


# A table need not have columns of these kinds: any that has those they are derived from has these.
# One that has columns of such a kind of its own goes before.
DERIVED: dict[str, Derived] = {
    **{kind: Derived(UpdateKind.ADAM, factor, factor) for kind, factor in ROTATIONS.items()},
    UpdateKind.SIGN: Derived(UpdateKind.ADAM, Monomial.parse("1/shape_factor")),
    # a spectral norm of lr, as of an orthogonal update (Yang, Simon & Bernstein 2023; Qiu et al.
    # 2025); before it is divided by its norm the optimizer may have an eps
    UpdateKind.NORMALIZED: Derived(UpdateKind.ORTHOGONAL),
    # at most that, in all directions that any gradient had (Qiu et al. 2025; measured:
    # docs/optimizers.md)
    UpdateKind.WHITENED: Derived(UpdateKind.ORTHOGONAL),
    # A relative step is the same at every width (Hyperball, 2026) if it has as many directions as
    # the tensor. In few of them its Frobenius norm, lr times the tensor's, is its spectral norm,
    # and that grows as the root of the width (measured: docs/optimizers.md).
    UpdateKind.RELATIVE: Derived(None),
    UpdateKind.RELATIVE_LOW_RANK: Derived(None, Monomial.parse("m_in^-1/2")),
}
RELATIVES = (UpdateKind.RELATIVE, UpdateKind.RELATIVE_LOW_RANK)


@dataclass(frozen=True)
class MatrixEps:
    """What is added to sums of `G G^T`, as the number that is right at the base width.

    The eps of Adam is as large as an entry of a gradient of few directions in an eigenbasis of its
    sides. An eigenvalue of `G G^T` is the square of that, and so is the factor on this eps, in
    every table (Qiu et al. 2025: d_in / d_out over the number of blocks).

    Args:
        value: at the base width.
        kind_of: tensor -> the kind of Adam in an eigenbasis of the sides of which the sums are.
    """

    value: float
    kind_of: Callable[[Info], str]


@dataclass(frozen=True)
class OptimizerRules:
    """Which kind of update each tensor gets under one optimizer, and what it makes of shapes.

    Args:
        kind_of: tensor -> update kind.
        shape_factors: update kind -> cells in fan_in and fan_out. An update of that kind is
            multiplied by the largest of them, beside lr; by 1 if the kind is not among the keys.
        idle_steps: number of steps at the start of training that only gather statistics.
        inner_kind_of: tensor -> the kind of its update before that is divided by its norm; None if
            it is not.
        parts_of: tensor -> numbers of outputs of the matrices into which it is cut; () if not.
        own_decay: update kind -> the decoupled weight decay that belongs to such an update, in
            place of the user's.
        settled: number of updates after which their size is the one that the update kinds tell.
        rotations: tensor -> what an update of few directions may be smaller by than one whose
            entries are lr; by default what `ROTATIONS` says of its kind.
        matrix_eps: of an optimizer that takes roots of sums of `G G^T`.
    """

    kind_of: Callable[[Info], str]
    shape_factors: Mapping[str, Sequence[Monomial]] = field(default_factory=dict)
    idle_steps: int = 0
    inner_kind_of: Callable[[Info], str | None] | None = None
    own_decay: Mapping[str, float] = field(default_factory=dict)
    settled: int = 0
    rotations: Callable[[Info], Monomial] | None = None
    parts_of: Callable[[ParamInfo], tuple[int, ...]] | None = None
    matrix_eps: MatrixEps | None = None

    def parts(self, info: Info) -> tuple[int, ...]:
        """Return the numbers of outputs of the matrices into which a tensor is cut, if it is."""
        if self.parts_of is None or not isinstance(info, ParamInfo):
            return ()
        return self.parts_of(info) if self.kind_of(info) == UpdateKind.ORTHOGONAL else ()

    def part_factors(self, info: Info) -> tuple[float, ...]:
        """Return `shape_factor` of each matrix into which a tensor is cut."""
        cells = self.shape_cells(info)
        fan_in = info.symbols["fan_in"]
        return tuple(largest(cells, size, fan_in) for size in self.parts(info))

    def inner_kind(self, info: Info) -> str | None:
        """Return the kind of an update before it is divided by its norm; None if it is not."""
        return None if self.inner_kind_of is None else self.inner_kind_of(info)

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
        """Return what the optimizer multiplies an update of this shape by, beside lr.

        Of a tensor that is cut into matrices it is the factor of the first.
        """
        return largest(self.shape_cells(info), self._fan_out(info), info.symbols["fan_in"])

    def _fan_out(self, info: Info) -> float:
        parts = self.parts(info)
        return parts[0] if parts else info.symbols["fan_out"]

    def relative_shape_factor(self, info: Info) -> float:
        """Return `shape_factor` over its value at the base width."""
        symbols = info.symbols
        base_fan_out = self._fan_out(info) / symbols["m_out"]
        base_fan_in = symbols["fan_in"] / symbols["m_in"]
        return self.shape_factor(info) / largest(self.shape_cells(info), base_fan_out, base_fan_in)


def kind_at_base(rules: OptimizerRules, info: ParamInfo) -> str:
    """Return the update kind that a tensor has at the base width.

    It differs from that at the described width where an optimizer treats tensors by their size.
    """
    across, growth = (info.m_out, info.m_in) if info.out_first else (info.m_in, info.m_out)
    copies = info.shape[: info.batch_dims]
    shape = list(info.copy_shape)
    if len(shape) > 1:
        shape[0] = round(shape[0] / across)
        shape[1] = round(shape[1] / growth)
    return rules.kind_of(replace(info, shape=(*copies, *shape)))


def largest(cells: Sequence[Monomial], fan_out: float, fan_in: float) -> float:
    """Return the largest of some cells in fan_out and fan_in."""
    return max(cell(fan_out=fan_out, fan_in=fan_in) for cell in cells)


def as_optimizer_rules(optimizer: UpdateKind | str | OptimizerRules) -> OptimizerRules:
    """Return rules as they are; an update kind stands for an optimizer with no other updates.

    Vectors follow `adam` beside the kinds that are derived from others, which are for matrices.

    Raises:
        ConfigError: if there is no such update kind.
    """
    if isinstance(optimizer, OptimizerRules):
        return optimizer
    if optimizer not in list(UpdateKind):
        raise ConfigError(f"update_kind={optimizer}: must be one of {', '.join(UpdateKind)}")
    return OptimizerRules(partial(_same_kind, str(optimizer)))


def _same_kind(kind: str, info: Info) -> str:  # not a lambda, which could not be pickled
    return UpdateKind.ADAM if kind in DERIVED and len(info.copy_shape) < 2 else kind
