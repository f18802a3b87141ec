"""What a coordinate check must see: the exponents in width, or in depth, that follow from a rule table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mupl.parametrization.cells import Monomial
from mupl.parametrization.rules import Parametrization, tied_rule
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind, as_optimizer_rules
from mupl.roles import MULTIPLIERS, ParamInfo, Role

HALF = 0.5

# The largest exponent of an update at which outputs stay bounded: it sums over fan_in coherently (spectral condition).
STABLE = {Role.INPUT: 0.0, Role.HIDDEN: -1.0, Role.OUTPUT: -1.0, Role.SCALAR: 0.0}


@dataclass(frozen=True)
class Expected:
    """Slope of log(mean |x|) against log(width or depth): in [low, high], or `zero` if x must be 0 at every width."""

    low: float = 0.0
    high: float = 0.0
    zero: bool = False


ZERO = Expected(zero=True)
UNKNOWN = Expected(low=float("nan"), high=float("nan"))  # not judged


def expected_exponents(
    infos: Mapping[str, ParamInfo],
    parametrization: Parametrization,
    optimizer: UpdateKind | str | OptimizerRules,
    t: int,
    decay: bool = False,
    along: str = "width",
) -> dict[tuple[str, str], Expected]:
    """By (kind, name), with t the number of updates done; of effective tensors W = mult * w.

    Of a tensor of role r let e(cell) be the exponent of a cell of its rule. Then

    - W at init has e(mult) + e(init), or is 0 if it starts at 0;
    - an update under `adam` has e(mult) + e(lr): entries of w move by lr whatever the gradient;
    - an update under `sgd` has 2 e(mult) + e(lr) + e(grad) + g, with g the exponent of the gradient of W: 0 for the
      readout, and for all before it that of the readout's W (backpropagation is linear in it);
    - an update under `orthogonal` has e(mult) + e(lr) + e(the optimizer's own factor) - d/2, with d the number of
      dimensions that grow: r singular values of 1 make entries of sqrt(r / (fan_in fan_out)), and the rank r of a
      gradient does not grow with width once that is above the batch size;
    - W after updates has the larger of both (on the way there, if updates grow faster than what it starts from, it lies
      between); the part of an update that is (decoupled) weight decay that of W;
    - no update may exceed `STABLE`, above which outputs grow: a table that predicts such updates (SP's, NTK's
      under Adam) describes a network that fails, and must be seen to fail;
    - outputs of input and hidden layers must have 0, in every parametrization: this is what muP is for. Logits too,
      after the first update; at init they are a sum of n independent terms, e(mult) + e(init) + 1/2, and of the bias if
      that does not start at 0, so they lie between the two; after it they may keep such a part.

    Along depth the same holds with powers of m_L, for what is in the blocks: the gradient has the exponent r of the
    residual multiplier, an update may have at most -1 - r (those of all blocks add up on the residual stream), and
    outputs, the residual stream among them, must have 0; in a block they may fall to what an update adds to them.

    While every readout is 0 no gradient reaches the layers before it: their first update is 0. Before the first update
    that an optimizer makes (`OptimizerRules.idle_steps`) all are.

    Roles are those of the shapes, and cells those of the parametrization's own table: neither a role nor an override
    that a user sets changes what must be seen. kinds: `output` (name of the `Multiplier`, or of the module that owns the
    tensor: scaled queries must have -1 where heads grow, so that attention logits, `logits` beside them, do not; these
    may keep the -1/2 that they have while q and k are random), `param` and
    `update` (from t to t + 1); with decoupled weight decay the two parts of an update are told apart instead, as
    `gradient_update` and `decay`.
    """
    network = _Network(infos, parametrization, as_optimizer_rules(optimizer), along)
    t -= network.rules.idle_steps  # 0: the first update that moves anything
    result: dict[tuple[str, str], Expected] = {}
    for name, info in network.infos.items():
        if info.role in MULTIPLIERS:
            result |= network.multiplier(name)
            continue
        result["param", name] = network.weight(name, t)
        result["gradient_update" if decay else "update", name] = network.stable_update(name, t)
        if decay:
            result["decay", name] = network.weight(name, t)
        if len(info.shape) > 1:
            result["output", name.rpartition(".")[0]] = network.output(name, t)
    return result


class _Network:
    """The exponents of one network's tensors by name, after t updates that move something."""

    def __init__(
        self,
        infos: Mapping[str, ParamInfo],
        parametrization: Parametrization,
        rules: OptimizerRules,
        along: str,
    ) -> None:
        self.infos = {
            n: i if i.role in MULTIPLIERS else replace(i, role=i.shape_role)
            for n, i in infos.items()
        }
        self.rules, self._parametrization, self._in_depth = rules, parametrization, along == "depth"
        self._readouts = [name for name, info in self.infos.items() if info.role is Role.OUTPUT]
        self._silent = bool(self._readouts) and all(
            _starts_at_zero(self.infos[name]) for name in self._readouts
        )
        tied = [
            replace(info, role=Role.OUTPUT)
            for info in self.infos.values()
            if info.role is Role.TIED
        ]
        self._tied = [
            self._power(tied_rule(parametrization, self.infos, rules).mult, info) for info in tied
        ]
        branches = [name for name, info in self.infos.items() if info.role is Role.RESIDUAL]
        self._residual = max((self._cell(name, "mult") for name in branches), default=0.0)

    def weight(self, name: str, t: int) -> Expected:
        """W after t updates (as many as none if t < 0)."""
        initial = [] if _starts_at_zero(self.infos[name]) else [self._initial(name)]
        # updates after the second are as the second
        updates = [e.high for k in range(min(t, 2)) if not (e := self._update(name, k)).zero]
        parts = initial + updates
        return Expected(min([*initial, max(parts)]), max(parts)) if parts else ZERO

    def stable_update(self, name: str, t: int) -> Expected:
        """The step of W from t to t + 1 by its gradient, at most the one at which outputs stay bounded."""
        info, step = self.infos[name], self._update(name, t)
        most = STABLE[info.role]
        if self._in_depth:
            most = -1 - self._residual if info.in_block else 0.0
        return step if step.zero else Expected(min(step.low, most), min(step.high, most))

    def output(self, name: str, t: int) -> Expected:
        """What the module returns that owns W."""
        info = self.infos[name]
        if info.role is not Role.OUTPUT:
            grown = self._in_depth and info.in_block and t > 0
            return Expected(min(self._update(name, t).low, 0.0), 0.0) if grown else Expected()
        parts = []  # of logits at init: a sum of independent terms, and the bias
        if not _starts_at_zero(info):
            parts.append(0.0 if self._in_depth else self._initial(name) + HALF)
        bias = name.removesuffix("weight") + "bias"
        if bias in self.infos and not _starts_at_zero(self.infos[bias]):
            parts.append(self._initial(bias))
        if t > 0:
            return Expected(min([*parts, 0.0]), 0.0)
        return Expected(min(parts), max(parts)) if parts else ZERO

    def multiplier(self, name: str) -> dict[tuple[str, str], Expected]:
        """What a `Multiplier` returns; of attention, the logits too."""
        info, output = self.infos[name], Expected()
        if not self._in_depth and info.shape_role is not Role.SCALAR:
            # logits of a tied readout: a random part, and that of the token itself, whose embedding is on the stream
            output = Expected(-1.0, -1.0) if info.role is Role.ATTENTION else Expected(-HALF, 0.0)
        if info.role is not Role.ATTENTION:
            return {("output", name): output}
        logits = Expected(-HALF if output.low else 0.0, 0.0)
        return {("output", name): output, ("output", f"{name.rpartition('.')[0]}.logits"): logits}

    def _update(self, name: str, t: int) -> Expected:
        """The step of W from t to t + 1 by its gradient."""
        info = self.infos[name]
        update_kind = self.rules.kind_of(info)
        before_readout = name.rpartition(".")[0] not in {
            r.rpartition(".")[0] for r in self._readouts
        }
        if t < 0 or (before_readout and self._silent and t == 0):
            return ZERO
        power = self._cell(name, "mult") + self._cell(name, "lr")
        if update_kind == "orthogonal" and not self._in_depth:
            power += shape_factor_exponent(info, self.rules) - HALF * sum(_grows(info.role))
        if update_kind == "sgd":
            power += self._cell(name, "mult") + self._cell(name, "grad") + self._gradient(name, t)
        return Expected(power, power)

    def _gradient(self, name: str, t: int) -> float:
        """That of the gradient of W."""
        info = self.infos[name]
        if self._in_depth:
            return self._residual if info.in_block else 0.0
        if info.role not in (Role.INPUT, Role.HIDDEN):
            return 0.0
        return max([self.weight(r, t).high for r in self._readouts] + self._tied, default=0.0)

    def _initial(self, name: str) -> float:
        return self._cell(name, "mult") + self._cell(name, "init")

    def _cell(self, name: str, cell: str) -> float:
        """That of a cell of the tensor's rule."""
        info = self.infos[name]
        return self._power(
            getattr(self._parametrization.rule(self.rules.kind_of(info), info.role), cell), info
        )

    def _power(self, cell: Monomial, info: ParamInfo) -> float:
        """Of depth, in the blocks, or of width in a cell."""
        if self._in_depth:
            return float(cell.exponents.get("m_L", 0)) if info.in_block else 0.0
        return exponent(cell, info, self.rules)


def exponent(cell: Monomial, info: ParamInfo, rules: OptimizerRules) -> float:
    """The power of width in a cell, where m_in and m_out grow as the tensor's role says."""
    m_in, m_out = _grows(info.role)
    powers = {
        "m_in": m_in,
        "m_out": m_out,
        "terms": m_in,
        "d_embedding": m_out and info.is_embedding,
        "length": m_out and len(info.shape) < 2,
        "shape_factor": shape_factor_exponent(info, rules),
    }
    return float(sum(power * powers.get(symbol, 0) for symbol, power in cell.exponents.items()))


def shape_factor_exponent(info: ParamInfo, rules: OptimizerRules) -> float:
    """The power of width in the factor that the optimizer itself puts on an update."""
    wide, wider = (
        rules.shape_factor(
            rules.kind_of(info), *(width if grows else 1.0 for grows in reversed(_grows(info.role)))
        )
        for width in (2.0**40, 2.0**42)  # above any dimension that stays finite
    )
    return math.log2(wider / wide) / 2


def _grows(role: Role) -> tuple[bool, bool]:
    """Whether fan_in and fan_out grow with width."""
    return role in (Role.HIDDEN, Role.OUTPUT), role in (Role.INPUT, Role.HIDDEN)


def _starts_at_zero(info: ParamInfo) -> bool:
    return info.init.std == info.init.mean == 0
