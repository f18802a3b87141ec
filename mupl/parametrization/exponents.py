"""What a coordinate check must see: the exponents in width, or in depth, that follow from a rule table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mupl.parametrization.family import Family, as_family
from mupl.parametrization.monomial import Monomial
from mupl.parametrization.rules import Parametrization, tied_rule
from mupl.roles import FACTORS, ParamInfo, Role

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
    family: str | Family,
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
      after the first update; at init they are a sum of n independent terms, e(mult) + e(init) + 1/2, and after it they
      may keep such a part.

    Along depth the same holds with powers of m_L, for what is in the blocks: the gradient has the exponent r of the
    residual multiplier, an update may have at most -1 - r (those of all blocks add up on the residual stream), and
    outputs, the residual stream among them, must have 0; in a block they may fall to what an update adds to them.

    While every readout is 0 no gradient reaches the layers before it: their first update is 0. Before the first update
    that an optimizer makes (`Family.idle`) all are.

    Roles are those of the shapes, and cells those of the parametrization's own table: neither a role nor an override
    that a user sets changes what must be seen. kinds: `output` (name of the `Factor`, or of the module that owns the
    tensor: scaled queries must have -1 where heads grow, so that attention logits, `logits` beside them, do not; these
    may keep the -1/2 that they have while q and k are random), `param` and
    `update` (from t to t + 1); with decoupled weight decay the two parts of an update are told apart instead, as
    `gradient_update` and `decay`.
    """
    infos = {n: info if info.role in FACTORS else replace(info, role=info.shape_role) for n, info in infos.items()}
    family = as_family(family)
    t -= family.idle  # 0: the first update that moves anything
    readouts = [name for name, info in infos.items() if info.role is Role.OUTPUT]
    tied = [
        exponent(tied_rule(parametrization, infos, family).mult, replace(info, role=Role.OUTPUT), family)
        for info in infos.values()
        if info.role is Role.TIED
    ]
    branches = [family.of(info) for info in infos.values() if info.role is Role.RESIDUAL]
    residual = max((exponent_in_depth(parametrization.rule(f, Role.RESIDUAL).mult) for f in branches), default=0.0)
    silent = bool(readouts) and all(_starts_at_zero(infos[name]) for name in readouts)
    result: dict[tuple[str, str], Expected] = {}

    def weight(name: str, t: int) -> Expected:
        """W after t updates (as many as none if t < 0)."""
        initial = [] if _starts_at_zero(infos[name]) else [init_exponent(name)]
        # updates after the second are as the second
        updates = [e.high for k in range(min(t, 2)) if not (e := update(name, k)).zero]
        parts = initial + updates
        return Expected(min([*initial, max(parts)]), max(parts)) if parts else ZERO

    def init_exponent(name: str) -> float:
        return _exponent(name, "mult") + _exponent(name, "init")

    def _exponent(name: str, cell: str) -> float:
        info = infos[name]
        monomial = getattr(parametrization.rule(family.of(info), info.role), cell)
        if along == "depth":
            return exponent_in_depth(monomial) if info.in_block else 0.0
        return exponent(monomial, info, family)

    def gradient(name: str, t: int) -> float:
        """The exponent of the gradient of W."""
        info = infos[name]
        if along == "depth":
            return residual if info.in_block else 0.0
        if info.role not in (Role.INPUT, Role.HIDDEN):
            return 0.0
        return max([weight(r, t).high for r in readouts] + tied, default=0.0)

    def update(name: str, t: int) -> Expected:
        """The step of W from t to t + 1 by its gradient."""
        info = infos[name]
        before_readout = name.rpartition(".")[0] not in {r.rpartition(".")[0] for r in readouts}
        if t < 0 or (before_readout and silent and t == 0):
            return ZERO
        power = _exponent(name, "mult") + _exponent(name, "lr")
        if family.of(info) == "orthogonal" and along == "width":
            power += own_exponent(info, family) - HALF * sum(_grows(info.role))
        if family.of(info) == "sgd":
            power += _exponent(name, "mult") + _exponent(name, "grad") + gradient(name, t)
        return Expected(power, power)

    def factor_output(info: ParamInfo) -> Expected:
        if along == "depth" or info.shape_role is Role.SCALAR:
            return Expected()
        # logits of a tied readout: a random part, and that of the token itself, whose embedding is on the stream
        return Expected(-1.0, -1.0) if info.role is Role.ATTENTION else Expected(-HALF, 0.0)

    for name, info in infos.items():
        if info.role in FACTORS:
            result["output", name] = factor_output(info)
            if info.role is Role.ATTENTION:
                low = -HALF if result["output", name].low else 0.0
                result["output", f"{name.rpartition('.')[0]}.logits"] = Expected(low, 0.0)
            continue
        result["param", name] = weight(name, t)
        step, most = update(name, t), STABLE[info.role]
        if along == "depth":
            most = -1 - residual if info.in_block else 0.0
        result["gradient_update" if decay else "update", name] = (
            step if step.zero else Expected(min(step.low, most), min(step.high, most))
        )
        if decay:
            result["decay", name] = weight(name, t)
        if len(info.shape) < 2:
            continue
        output = Expected()
        if info.role is Role.OUTPUT:
            at_init = 0.0 if along == "depth" else init_exponent(name) + HALF
            random = None if _starts_at_zero(info) else at_init
            if t <= 0:
                output = ZERO if random is None else Expected(random, random)
            elif random is not None:
                output = Expected(min(random, 0.0), 0.0)
        elif info.in_block and along == "depth" and t > 0:
            output = Expected(min(update(name, t).low, 0.0), 0.0)
        result["output", name.rpartition(".")[0]] = output
    return result


def exponent(cell: Monomial, info: ParamInfo, family: Family) -> float:
    """The power of width in a cell, where m_in and m_out grow as the tensor's role says."""
    m_in, m_out = _grows(info.role)
    powers = {
        "m_in": m_in,
        "m_out": m_out,
        "terms": m_in,
        "d_embedding": m_out and info.is_embedding,
        "length": m_out and len(info.shape) < 2,
        "own": own_exponent(info, family),
    }
    return float(sum(power * powers.get(symbol, 0) for symbol, power in cell.exponents.items()))


def exponent_in_depth(cell: Monomial) -> float:
    """The power of depth in a cell, in the blocks."""
    return float(cell.exponents.get("m_L", 0))


def own_exponent(info: ParamInfo, family: Family) -> float:
    """The power of width in the factor that the optimizer itself puts on an update."""
    wide, wider = (
        family.factor(family.of(info), *(width if grows else 1.0 for grows in reversed(_grows(info.role))))
        for width in (2.0**40, 2.0**42)  # above any dimension that stays finite
    )
    return math.log2(wider / wide) / 2


def _grows(role: Role) -> tuple[bool, bool]:
    """Whether fan_in and fan_out grow with width."""
    return role in (Role.HIDDEN, Role.OUTPUT), role in (Role.INPUT, Role.HIDDEN)


def _starts_at_zero(info: ParamInfo) -> bool:
    return info.init.std == info.init.mean == 0
