"""What a coordinate check must see: exponents in width or in depth that follow from a rule table.

All is said of effective tensors `W = mult * w`. Let e(cell) be the power of width in a cell of the
rule of a tensor, where m_in and m_out grow as its role says. Then

| quantity                        | exponent                                                 |
|---------------------------------|----------------------------------------------------------|
| W at init                       | e(mult) + e(init); W is 0 if it starts at 0              |
| update of W, kind `adam`        | e(mult) + e(lr), or less where eps is felt               |
| update of W, kind `sgd`         | 2 e(mult) + e(lr) + e(grad) + g                          |
| update of W, kind `orthogonal`  | e(mult) + e(lr) + e(shape factor) - d/2                  |
| update of W, kind `rotated...`  | e(mult) + e(lr), or between that and that - e(rotation)  |
| update of W, kind `sign`        | e(mult) + e(lr) + e(shape factor)                        |
| update of W, kind `normalized`  | as `orthogonal`, or up to 1/2 above if hidden            |
| update of W, kind `whitened`    | the same; of inputs too                                  |
| update of W, kind `relative...` | e(W at init) + e(lr)                                     |
| W after updates                 | the larger of init and update, or between that and init  |
| W after more than four          | between the smaller and the larger of init and update    |
| decoupled weight decay of W     | e(W), less p where fan_in grows (lr * wd ~ m_in^-p)      |
| output of input, hidden layers  | 0                                                        |
| logits at init                  | e(mult) + e(init) + 1/2, or between that and a bias's    |
| logits after updates            | 0, or between that and their exponent at init            |
| what the model returns          | as its readouts                                          |
| (W_t - W_0) x_t, effective      | e(updates) + f, at most 0                                |
| W_0 (x_t - x_0), propagating    | e(W at init) + 1/2; readouts: + 1/2 to 1                 |
| attention logits                | 0, or between that and -1/2 (larger heads, at random)    |

- `adam`: entries of w move by lr, whatever the gradient is. Where eps is not negligible beside it
  they move by less, and may move by lr times the gradient over eps: e(mult) + e(grad) + g - e(eps)
  is added if it is below 0. In a table whose eps follows the gradient it is 0.
- `sgd`: g is the exponent of the gradient of W. It is 0 for the readout. For every tensor before
  it, it is the exponent of the readout's W, because backpropagation is linear in that. If a tensor
  holds matrices whose number grows with width, such as experts, each sees a share of the
  examples, and g is less by 1. Of a router, between a fixed number of experts too, g may be less by
  1/2. Its gradient is a product, over fan_in, of outputs of experts and the gradient of the
  residual stream. At first the two are random beside each other, so that it grows as n^1/2;
  training aligns them, so that it grows as n. How far is told by neither t nor width alone: the
  range stays.
- `orthogonal`: d is the number of dimensions that grow. r singular values of 1 make entries of
  sqrt(r / (fan_in fan_out)), and the rank r of a gradient does not grow with width once that is
  above the batch size. Of an expert, one of a growing number, it may fall as its share of the
  examples; of the router between them it may grow with their number.
- `rotated`, `rotated_in`, `rotated_out`: entries have size lr in the eigenbasis of the sides. If
  all are filled, by noise, so they are in W's own basis; if the gradient has few directions, the
  Frobenius norm is smaller by the rotation (`OptimizerRules.rotation`). What fills the rest adds up
  without coherence, so that it may have half the exponent of `STABLE`.
- `normalized`: the same for an update of spectral norm 1. Its other singular values may be as
  large, and there are n of them where both dimensions grow.
- `whitened`: the same. Shampoo lifts all directions that a gradient has. They are as many as the
  shorter side, the batch and the steps before allow, so they grow with n in input layers too,
  while that is below its inputs. What such an update does to activations is the spectral norm's.
- `relative`, `relative_low_rank`: the norm of an update is lr times the one of W. Its entries may
  have half the exponent of `STABLE`, which is right if n of its singular values are alike. What it
  does to activations is known between that and n^1/2 times as much, in few directions.
- Logits at init are a sum of n independent terms, and of the readout's bias where that does not
  start at 0. After updates they may keep such parts.
- A readout before an input layer is a bottleneck (LoRA, an adapter): what the input layer returns
  may be as small as what the bottleneck returns.
- No update may exceed `STABLE`, above which outputs grow. A table that predicts such updates (sp,
  ntk under Adam) describes a network that fails, and it must be seen to fail.
- Let f be 1 where fan_in grows, else 0. An update has few directions, which are its inputs',
  so that it sums over fan_in coherently; what noise fills of a rotated basis adds f/2. Between both
  is what it makes of all examples for an expert, one of a growing number, that saw few of them, and
  for that expert's row of the router. So it is in networks of images, whose positions are many and
  may have little in common. W at init is random, so its sums grow as n^1/2. A readout may
  grow as n, as backpropagation turns its inputs into its own directions. Inputs x_t - x_0 move as
  the effective parts before them do. Neither part may grow, and nothing is said while nothing has
  moved (Haas et al. 2025, arXiv 2505.22491).
- Matrix norms of a weight, an update or a decay of d growing dimensions: the entries' exponent plus
  d/2 where a few directions make it, so that all norms are alike. An update of a router between a
  growing number of experts may have as many directions. The spectral norm of what is
  random (W at init, what fills a rotated basis) grows by the largest side's n^1/2 alone. RMS->RMS:
  the spectral norm's plus (f - g)/2, with g 1 where fan_out grows, else 0. Where the number of
  matrices in a tensor grows, the Frobenius norm of all grows by n^1/2 besides.
- Outputs must have the exponent 0 in every parametrization: this is what muP is for.
- While every readout is 0, no gradient reaches the layers before it: their first update is 0.
  All updates are 0 while an optimizer is idle (`OptimizerRules.idle_steps`).

Along depth the same holds with powers of m_L, for what is in the blocks. There the gradient has the
exponent r of the residual multiplier. An update may have at most -1 - r, because the updates of
all blocks add up on the residual stream. Outputs must have 0, or between that and what an update
adds.

Frozen tensors do not move. What the model's author made (kept tensors, and outputs of them) is not
judged, since it may be of any size.

Roles follow from shapes, and cells are of the parametrization's own table: neither a role
nor an override that a user sets changes what must be seen.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from mupl.errors import ConfigError
from mupl.initializers import Initializer
from mupl.parametrization.cells import Monomial
from mupl.parametrization.rules import COPIES, ROWS, Parametrization
from mupl.parametrization.scales import tied_rule
from mupl.parametrization.update_kinds import (
    RELATIVES,
    OptimizerRules,
    UpdateKind,
    as_optimizer_rules,
)
from mupl.roles import SPECIAL_ROWS, Info, MultiplierInfo, MultiplierRole, ParamInfo, Role

HALF = 0.5
FEW = 4  # updates, which do not exceed the initial values
ENTRIES = ("l1", "rms")  # statistics that grow as the entries do
MODEL_OUTPUT = "model output"  # the name of what a model returns, its logits
_M_IN = Monomial.parse("m_in")

_OF_ANY_RANK = (UpdateKind.NORMALIZED, UpdateKind.WHITENED)
_OF_SPECTRAL_NORM = (UpdateKind.ORTHOGONAL, *_OF_ANY_RANK)  # what they set
_OF_SHAPES = (*_OF_SPECTRAL_NORM, UpdateKind.SIGN)

# The largest exponent of an update at which outputs stay bounded. An update sums over fan_in
# coherently (Yang, Simon & Bernstein 2023, spectral condition).
STABLE = {Role.INPUT: 0.0, Role.HIDDEN: -1.0, Role.OUTPUT: -1.0, Role.SCALAR: 0.0}


@dataclass(frozen=True)
class Expected:
    """The slope of log(mean |x|) against log(width or depth): from low to high.

    `zero` says instead that x must be 0 at every width.
    """

    low: float = 0.0
    high: float = 0.0
    zero: bool = False

    def shifted(self, power: float) -> "Expected":
        """Return what must be seen of x times this power of width."""
        return replace(self, low=self.low + power, high=self.high + power)


ZERO = Expected(zero=True)
UNKNOWN = Expected(low=float("nan"), high=float("nan"))  # not judged


@dataclass(frozen=True)
class Seen:
    """What no table says of a training, and a recorder sees.

    Args:
        felt_eps: names of tensors whose eps is not negligible beside their gradient.
        of_images: names of modules that return positions in two dimensions or more, besides
            examples and channels.
    """

    felt_eps: Collection[str] = ()
    of_images: Collection[str] = ()


NOTHING = Seen()


def expected_exponents(
    infos: Mapping[str, Info],
    parametrization: Parametrization,
    optimizer: UpdateKind | str | OptimizerRules,
    t: int,
    decay: bool = False,
    along: str = "width",
    decay_exponent: float = 0.0,
    seen: Seen = NOTHING,
) -> dict[tuple[str, ...], Expected]:
    """Return the exponents that must be seen after t updates, by kind and name.

    They are of mean |x| and of the RMS; of norms of matrices by kind, name and norm. Kinds are

    - `param`: the tensor;
    - `update`: its change from t to t + 1, or its parts `gradient_update` and (decoupled) `decay`;
    - `effective`, `propagating`: the parts of the change of a module's output (`mupl.stats.parts`);
    - `logits`: what the model returns; and `attention_logits`, the same for all modules ("*");
    - `output`: what a multiplier returns, or the module that owns a matrix. Where heads grow,
      scaled queries must have -1, and attention logits may keep the -1/2 that they begin with.

    Args:
        infos: what `describe` returns.
        optimizer: its rules, or the one kind of all its updates.
        decay: whether the optimizer decays weights apart from the gradient.
        along: "width" or "depth".
        decay_exponent: p of lr * weight_decay ~ m_in^-p.
        seen: what was seen in the course of training.

    Raises:
        ConfigError: if `along` is neither, or if the parametrization has no rules for an update.
    """
    rules = as_optimizer_rules(optimizer)
    network = _Network(infos, parametrization, rules, along, seen)
    is_settled = t >= rules.settled
    t -= rules.idle_steps  # so 0 is the first update that moves anything
    if t > 0 and not is_settled:
        return {}
    decays_by = decay_exponent if decay else None
    expected: dict[tuple[str, ...], Expected] = {("logits", MODEL_OUTPUT): network.logits(t)}
    for name, info in infos.items():
        if isinstance(info, MultiplierInfo):
            expected |= network.multiplier(name, info)
            continue
        expected |= _of_weight(network, name, t, decays_by)
        if is_settled or t < 0:
            expected |= _of_update(network, name, t, decays_by)
        if len(info.copy_shape) > 1 and _makes_output(name, infos):
            expected |= _of_output(network, name, t, decays_by)
    return expected | {("attention_logits", "*"): network.attention_logits()}


def _of_weight(
    network: "_Network", name: str, t: int, decay_exponent: float | None
) -> dict[tuple[str, ...], Expected]:
    """Return the exponents of W and, unless its exponent is None, of what weight decay takes."""
    weight_norms = network.weight_norms(name, t)
    expected = {("param", name): network.weight(name, t)} | _of_norms("param", name, weight_norms)
    if decay_exponent is None:
        return expected
    expected["decay", name] = network.decay(name, t, decay_exponent)
    shrinks = network.decay_power(name, decay_exponent)
    decay_norms = {norm: one.shifted(-shrinks) for norm, one in weight_norms.items()}
    return expected | _of_norms("decay", name, decay_norms)


def _of_update(
    network: "_Network", name: str, t: int, decay_exponent: float | None
) -> dict[tuple[str, ...], Expected]:
    """Return the exponents of the change of W by its gradient, whose kind says if W decays too."""
    kind = "update" if decay_exponent is None else "gradient_update"
    expected = {(kind, name): network.stable_update(name, t)}
    return expected | _of_norms(kind, name, network.update_norms(name, t))


def _of_output(
    network: "_Network", name: str, t: int, decay_exponent: float | None
) -> dict[tuple[str, ...], Expected]:
    """Return the exponents of what the owner of W returns, and of the parts of its change."""
    owner = _owner(name)
    return {
        ("output", owner): network.output(name, t),
        ("effective", owner): network.effective(name, t, decay_exponent),
        ("propagating", owner): network.propagating(name, t, decay_exponent),
    }


def _of_norms(
    kind: str, name: str, norms: Mapping[str, Expected]
) -> dict[tuple[str, ...], Expected]:
    return {(kind, name, norm): expected for norm, expected in norms.items()}


def _makes_output(name: str, infos: Mapping[str, Info]) -> bool:
    """Say whether what the owner of a tensor returns follows from it.

    What a model returns does not follow from a tensor of its own, such as a class token, unless the
    model is a layer.
    """
    return bool(_owner(name)) or not any(map(_owner, infos))


class _Network:
    """The exponents of one network's tensors, by name.

    `t` counts the updates that move something; at t < 0 the optimizer is idle.
    """

    def __init__(
        self,
        infos: Mapping[str, Info],
        parametrization: Parametrization,
        rules: OptimizerRules,
        along: str,
        seen: Seen,
    ) -> None:
        if along not in ("width", "depth"):
            raise ConfigError(f"along={along}: must be width or depth")
        self.rules = rules
        self._parametrization = parametrization
        self._in_depth = along == "depth"
        self._seen = seen
        self._tensors: dict[str, ParamInfo] = {}
        self._readouts: list[str] = []
        self._tied: list[float] = []  # of tied readouts, the exponents of W
        self._copies: set[int] = set()  # growing numbers of matrices in one tensor
        self._fixed_copies: set[int] = set()  # numbers that stay
        residuals: list[float] = []
        for name, info in infos.items():
            if isinstance(info, ParamInfo):
                self._tensors[name] = replace(info, role=info.shape_role)
                if info.batch_dims:
                    numbers = self._copies if info.copies_grow else self._fixed_copies
                    numbers.add(math.prod(info.shape[: info.batch_dims]))
                if info.shape_role is Role.OUTPUT:
                    self._readouts.append(name)
            elif info.role is MultiplierRole.TIED:
                rule = tied_rule(parametrization, infos, rules)
                self._tied.append(self._power(rule.mult, info))
            elif info.role is MultiplierRole.RESIDUAL:
                residuals.append(self._cell(info, "mult"))
        self._residual = max(residuals, default=0.0)
        # Through readouts that are all 0 no gradient passes at first.
        at_zero = [_starts_at_zero(self._tensors[name]) for name in self._readouts]
        self._silent = bool(at_zero) and all(at_zero) and not self._tied

    def weight(self, name: str, t: int) -> Expected:
        """Return the exponent of W after t updates; before the first one it is as at the start.

        In the limit of large widths W is its larger part. Many updates may exceed an initial W that
        is larger in that limit, so that at the widths that there are W is between the two.
        """
        info = self._tensors[name]
        if info.kept:
            return UNKNOWN
        updates = [self._update(name, k) for k in range(min(t, 2))]  # later: as the second
        moving = [update for update in updates if not update.zero]
        if not _starts_at_zero(info):
            initial = self._initial(info)
            high = max([initial, *(update.high for update in moving)])
            low = min([initial, *(update.low for update in moving)]) if t > FEW else initial
            return Expected(low, high)
        if not moving:
            return ZERO
        low = max(update.low for update in moving)
        return Expected(low, max(update.high for update in moving))

    def decay(self, name: str, t: int, decay_exponent: float) -> Expected:
        """Return the exponent of what weight decay takes of W at t."""
        return self.weight(name, t).shifted(-self.decay_power(name, decay_exponent))

    def decay_power(self, name: str, decay_exponent: float) -> float:
        """Return the power of 1/width in lr * weight_decay."""
        if self._in_depth:
            return 0.0
        return exponent(_M_IN, self._tensors[name], self.rules) * decay_exponent

    def stable_update(self, name: str, t: int) -> Expected:
        """Return the exponent of an update at t, at most one at which outputs stay bounded."""
        update = self._update(name, t)
        if update.zero:
            return update
        info = self._tensors[name]
        most = STABLE[info.role]
        if self._in_depth:
            most = -1 - self._residual if info.in_block else 0.0
        filled = most / 2 if self._is_filled(info) else most
        if self._is_filled_input(info):
            filled = update.high
        if self._is_relative(info):
            most = filled = most / 2
        return Expected(min(update.low, most), min(update.high, filled))

    def weight_norms(self, name: str, t: int) -> dict[str, Expected]:
        """Return the exponents of the norms of W after t updates; of a vector none."""
        info = self._tensors[name]
        entries = self.weight(name, t)
        if entries.zero or info.kept or len(info.copy_shape) < 2:
            return {}
        fan_in, fan_out = self._growth(info)
        of_few = entries.shifted(HALF * (fan_in + fan_out))  # of updates, if there are any
        low, high = of_few.low, of_few.high
        if not _starts_at_zero(info):
            low = self._initial(info) + HALF * max(fan_in, fan_out)
            updates = [self.update_norms(name, k).get("spectral", ZERO) for k in range(min(t, 2))]
            high = max([low, *(update.high for update in updates if not update.zero)])
        return self._norms(info, entries, Expected(low, high))

    def update_norms(self, name: str, t: int) -> dict[str, Expected]:
        """Return the exponents of the norms of an update at t; of a vector none."""
        info = self._tensors[name]
        entries = self.stable_update(name, t)
        if entries.zero or len(info.copy_shape) < 2:
            return {}
        fan_in, fan_out = self._growth(info)
        few = entries.low
        sets_spectral_norm = self.rules.kind_of(info) in _OF_SPECTRAL_NORM
        if sets_spectral_norm and info.copies_grow:
            few = entries.high  # of smaller entries there are fewer directions
        low = few + HALF * (fan_in + fan_out)
        if self._is_router(info) and not sets_spectral_norm:
            low -= HALF * min(fan_in, fan_out)  # each row has a direction of its own
        filled = entries.high + HALF * max(fan_in, fan_out)
        if self._is_filled_input(info):
            high = low
        elif self._is_filled(info):
            high = max(low, filled)
        else:
            high = entries.high + HALF * (fan_in + fan_out)
        if self._is_relative(info):
            low = high = filled
        return self._norms(info, entries, Expected(low, high))

    def _norms(self, info: ParamInfo, entries: Expected, spectral: Expected) -> dict[str, Expected]:
        fan_in, fan_out = self._growth(info)
        copies = 0.0 if self._in_depth else float(info.copies_grow)
        return {
            "frobenius": entries.shifted(HALF * (fan_in + fan_out + copies)),
            "spectral": spectral,
            "rms_to_rms": spectral.shifted(HALF * (fan_in - fan_out)),
        }

    def effective(self, name: str, t: int, decay_exponent: float | None) -> Expected:
        """Return the exponent of (W_t - W_0) x_t; of a vector, the one of its change.

        A decay exponent of None says that no weight decay is decoupled.
        """
        info = self._tensors[name]
        if info.kept:
            return UNKNOWN
        parts = [self._action(name, k) for k in range(min(t, 2))]  # later ones are like the second
        if decay_exponent is not None and t > 0:  # weight decay takes a share of the output
            decays = self.decay_power(name, decay_exponent)
            parts.append(self.output(name, t).shifted(-decays))
        moving = [part for part in parts if not part.zero]
        if not moving:
            return UNKNOWN
        low = max(part.low for part in moving)
        high = max(part.high for part in moving)
        if info.role is Role.INPUT:
            low += self._bottlenecked(name, t).low
        return Expected(low, high)

    def _action(self, name: str, t: int) -> Expected:
        """Return the exponent of (W_(t+1) - W_t) x_t.

        Rows of an update that points along x_t add up as fan_in, random ones as fan_in^1/2. A step
        that is relative to the norm of W may be either: its data say how many directions it has. So
        are the inputs of an expert, which are all examples: it was updated for ever fewer of them
        where the number of experts grows. So was its row of the router. In a network of images
        examples are positions, which may have little in common.
        """
        update = self.stable_update(name, t)
        if update.zero:
            return ZERO
        info = self._tensors[name]
        fan_in, _ = self._growth(info)
        random = update.high + HALF * fan_in
        if info.copies_grow:
            return Expected(random, update.high + fan_in)
        aligned = update.low + fan_in
        if self._is_relative(info):
            return Expected(random, aligned)
        if self._is_filled_input(info):
            return Expected(aligned, aligned)
        low = aligned
        if self._is_router(info) or _owner(name) in self._seen.of_images:
            low -= HALF * fan_in
        if self._is_filled(info):
            return Expected(low, max(aligned, random))
        return Expected(low, update.high + fan_in)

    def _is_filled_input(self, info: ParamInfo) -> bool:
        """Say whether updates of an input layer may have more directions at larger widths."""
        is_whitened = self.rules.kind_of(info) == UpdateKind.WHITENED
        return is_whitened and info.role is Role.INPUT and not self._in_depth

    def _is_relative(self, info: ParamInfo) -> bool:
        """Say whether updates are a share of W, which is filled by noise."""
        return self.rules.kind_of(info) in RELATIVES and info.role is Role.HIDDEN

    def propagating(self, name: str, t: int, decay_exponent: float | None) -> Expected:
        """Return the exponent of W_0 (x_t - x_0)."""
        info = self._tensors[name]
        is_fed = info.role in (Role.HIDDEN, Role.OUTPUT)
        if self._in_depth or not is_fed or info.kept or _starts_at_zero(info):
            return UNKNOWN
        parts = []
        for other, tensor in self._tensors.items():
            # A router's logits choose what moves the stream, and are no part of it.
            if not self._is_of_readout(other) and not self._is_router(tensor):
                parts.append(self.effective(other, t, decay_exponent))
        moving = [part for part in parts if part != UNKNOWN]
        if not moving:
            return UNKNOWN
        low = high = self._initial(info) + HALF
        if info.role is Role.OUTPUT:
            high += HALF
        low += min(part.low for part in moving)
        high += max(part.high for part in moving)
        return Expected(min(low, 0.0), min(high, 0.0))

    def output(self, name: str, t: int) -> Expected:
        """Return the exponent of what the module returns that owns W, at time t."""
        info = self._tensors[name]
        if info.kept:
            return UNKNOWN
        if info.role is not Role.OUTPUT:
            if self._in_depth and info.in_block and t > 0:
                return Expected(min(self._update(name, t).low, 0.0), 0.0)
            return self._bottlenecked(name, t) if info.role is Role.INPUT else Expected()
        parts = []
        if not _starts_at_zero(info):
            parts.append(0.0 if self._in_depth else self._initial(info) + HALF)
        bias = self._tensors.get(name.removesuffix("weight") + "bias")
        if bias is not None and not _starts_at_zero(bias):
            parts.append(self._initial(bias))
        if t > 0:
            return Expected(min([*parts, 0.0]), 0.0)
        if not parts:
            return ZERO
        return Expected(min(parts), max(parts))

    def _bottlenecked(self, name: str, t: int) -> Expected:
        """Return the exponent of an input layer's output: 0, or as a bottleneck before it.

        What narrows the stream to a fixed size, as the first matrix of LoRA or of an adapter does,
        is a readout, which may be as small as logits are.
        """
        names = list(self._tensors)
        before = [other for other in self._readouts if names.index(other) < names.index(name)]
        lows = [0.0]
        for other in before:
            low = self.output(other, t).low
            lows.append(low if low < 0 else 0.0)  # NaN is unknown
        return Expected(min(lows), 0.0)

    def logits(self, t: int) -> Expected:
        """Return the exponent of what the model returns, which any of its last matrices makes."""
        parts = [self.output(name, t) for name in self._readouts + self._behind_readouts()]
        if self._tied:
            parts.append(self.attention_logits())
        known = [part for part in parts if not part.zero]
        if UNKNOWN in known or (parts and not known):
            return UNKNOWN  # readouts that are 0 are judged themselves
        low = min((part.low for part in known), default=0.0)
        high = max((part.high for part in known), default=0.0)
        return Expected(low, high)

    def _behind_readouts(self) -> list[str]:
        """Name the matrices of fixed size that come after the last readout.

        Where layers grow inside of blocks only, what leaves a block is a readout by its shape, and
        a matrix between fixed sizes makes the logits.
        """
        names = list(self._tensors)
        last = max(map(names.index, self._readouts), default=len(names))
        found = []
        for name in names[last + 1 :]:
            info = self._tensors[name]
            if len(info.copy_shape) > 1 and info.role is Role.SCALAR:
                found.append(name)
        return found

    def attention_logits(self) -> Expected:
        """Return the exponent of a sum over width that may be random: it must not grow.

        Such are the attention logits of larger heads, and the logits of a tied readout.
        """
        return Expected(0.0 if self._in_depth else -HALF, 0.0)

    def multiplier(self, name: str, info: MultiplierInfo) -> dict[tuple[str, ...], Expected]:
        """Return the exponent of what a multiplier returns; for attention, of the logits too."""
        attention = info.role is MultiplierRole.ATTENTION
        output = logits = Expected()
        if info.grows and not self._in_depth:
            # Logits of a tied readout have a random part, and a part of the token itself, whose
            # embedding is on the residual stream.
            output = Expected(-1.0, -1.0) if attention else Expected(-HALF, 0.0)
            logits = Expected(-HALF, 0.0)
        expected: dict[tuple[str, ...], Expected] = {("output", name): output}
        if attention:
            expected["output", f"{_owner(name)}.logits"] = logits
        return expected

    def _update(self, name: str, t: int) -> Expected:
        """Return the exponent of the change of W by its gradient from t to t + 1."""
        info = self._tensors[name]
        is_silent = t == 0 and self._silent and not self._is_of_readout(name)
        if info.frozen or t < 0 or is_silent:
            return ZERO
        power = self._cell(info, "mult") + self._cell(info, "lr")
        kind = self.rules.kind_of(info)
        if kind in RELATIVES:
            power += self._cell(info, "init")
        if kind in _OF_SHAPES and not self._in_depth:
            power += shape_factor_exponent(info, self.rules)
        if kind in _OF_SPECTRAL_NORM and not self._in_depth:
            power -= HALF * sum(self._growth(info))
        directions = self._directions(info)
        followed = self._followed(name, t)
        low = power + directions.low + followed.low
        return Expected(low, power + directions.high + followed.high)

    def _directions(self, info: ParamInfo) -> Expected:
        """Return by what an update is larger or smaller, as it may have more or fewer directions.

        The gradient has few directions; noise may fill all others.
        """
        if self._is_filled_input(info):
            return Expected(0.0, HALF)
        kind = self.rules.kind_of(info)
        if kind in _OF_SPECTRAL_NORM and info.role is Role.HIDDEN and not self._in_depth:
            fewer = HALF if info.copies_grow else 0.0
            more = HALF if kind in _OF_ANY_RANK or self._is_router(info) else 0.0
            return Expected(-fewer, more)
        return Expected(-self._power(self.rules.rotation(info), info), 0.0)

    def _is_filled(self, info: ParamInfo) -> bool:
        """Say whether noise may fill directions of an update that the gradient does not have."""
        directions = self._directions(info)
        return directions.low < directions.high

    def _followed(self, name: str, t: int) -> Expected:
        """Return the exponent of what an update takes over from the size of its gradient.

        An update of `sgd` is as large. One of `adam` does not depend on it unless eps is felt; then
        it may be as small as the gradient over eps.
        """
        info = self._tensors[name]
        kind = self.rules.kind_of(info)
        is_over_eps = kind == UpdateKind.ADAM and name in self._seen.felt_eps
        if kind != UpdateKind.SGD and not is_over_eps:
            return Expected()
        cells = self._cell(info, "mult") + self._cell(info, "grad")
        gradient = self._gradient(name, t).shifted(cells)
        if kind == UpdateKind.SGD:
            return gradient
        return Expected(min(gradient.low - self._cell(info, "eps"), 0.0), 0.0)

    def _is_router(self, info: ParamInfo) -> bool:
        """Say whether a tensor has as many outputs as there are experts, whose number grows."""
        return info.fan_out in self._copies and not info.copies_grow

    def _is_of_readout(self, name: str) -> bool:
        return _owner(name) in map(_owner, self._readouts)

    def _gradient(self, name: str, t: int) -> Expected:
        """Return the exponent of the gradient of W.

        A router's is a product, over fan_in, of outputs of experts and the gradient of the stream.
        The two are random beside each other until training aligns them.
        """
        info = self._tensors[name]
        if self._in_depth:
            depth = self._residual if info.in_block else 0.0
            return Expected(depth, depth)
        power = -float(info.copies_grow)  # the share of the examples that a copy sees
        if info.role in (Role.INPUT, Role.HIDDEN):
            readouts = [self.weight(readout, t).high for readout in self._readouts]
            power += max(readouts + self._tied, default=0.0)
        random = HALF if self._is_router(info) or self._is_router_of_few(name) else 0.0
        return Expected(power - random, power)

    def _is_router_of_few(self, name: str) -> bool:
        """Say whether a tensor has as many outputs as there are experts, whose number stays.

        The last readout may have as many by chance.
        """
        info = self._tensors[name]
        if info.copies_grow or info.batch_dims or info.fan_out not in self._fixed_copies:
            return False
        return bool(self._readouts) and _owner(name) != _owner(self._readouts[-1])

    def _initial(self, info: ParamInfo) -> float:
        return self._cell(info, "mult") + self._cell(info, "init")

    def _cell(self, info: Info, cell: str) -> float:
        """Return the exponent of a cell of the rule for a tensor or a multiplier."""
        rule = self._parametrization.rule_of(self.rules.kind_of(info), info)
        return self._power(getattr(rule, cell), info)

    def _growth(self, info: Info) -> tuple[float, float]:
        """Return the powers of the size that is swept in fan_in and in fan_out."""
        return (0.0, 0.0) if self._in_depth else _growth(info)

    def _power(self, cell: Monomial, info: Info) -> float:
        if not self._in_depth:
            return exponent(cell, info, self.rules)
        return float(cell.exponents.get("m_L", 0)) if info.in_block else 0.0


def exponent(cell: Monomial, info: Info, rules: OptimizerRules) -> float:
    """Return the power of width in a cell, where fan_in and fan_out grow as the role says."""
    fan_in, fan_out = _growth(info)
    powers = {"m_in": fan_in, "fan_in": fan_in, "m_out": fan_out, "fan_out": fan_out}
    powers["m_copies"] = float(info.copies_grow)
    powers["shape_factor"] = shape_factor_exponent(info, rules)
    return _sum_of_powers(cell, powers)


def shape_factor_exponent(info: Info, rules: OptimizerRules) -> float:
    """Return the power of width in what the optimizer multiplies an update of this shape by."""
    fan_in, fan_out = _growth(info)
    powers = {"fan_in": fan_in, "fan_out": fan_out}
    return max(_sum_of_powers(cell, powers) for cell in rules.shape_cells(info))


def _sum_of_powers(cell: Monomial, powers: Mapping[str, float]) -> float:
    return float(sum(power * powers.get(symbol, 0) for symbol, power in cell.exponents.items()))


def _growth(info: Info) -> tuple[float, float]:
    """Return the powers of width in fan_in and in fan_out."""
    if isinstance(info, MultiplierInfo):
        return float(info.grows), 0.0
    fan_in = info.role in (Role.HIDDEN, Role.OUTPUT)
    fan_out = info.role in (Role.INPUT, Role.HIDDEN)
    return float(fan_in), float(fan_out)


def _starts_at_zero(info: ParamInfo) -> bool:
    return info.init.std == info.init.mean == 0


def _owner(name: str) -> str:
    """Return the name of the module that owns a tensor."""
    return name.rpartition(".")[0]


def table_with_exponents(
    parametrization: Parametrization, update_kind: str
) -> list[dict[str, str]]:
    """Return `parametrization.table(update_kind)` with the powers of width that a check must see.

    `W` is for effective tensors `W = mult * w` at init, `update` for an update of W. Under SGD they
    hold for gradients of the loss itself, which unit-scaled operations do not give.

    Example:
        >>> from mupl.parametrization.rules import get_parametrization
        >>> hidden = table_with_exponents(get_parametrization("mup"), "adam")[1]
        >>> hidden["lr"], hidden["W"], hidden["update"]
        ('1/m_in', '-1/2', '-1')
    """
    predicted = _exponents_of_rows(parametrization, update_kind)
    table = []
    for row in parametrization.table(update_kind):
        found = predicted.get(row["role"], {"W": "", "update": ""})  # of no tensor by itself
        table.append(row | found)
    return table


def _exponents_of_rows(
    parametrization: Parametrization, update_kind: str
) -> dict[str, dict[str, str]]:
    """Return the exponents of `W` at init and of an `update` of it, for every row of a table."""
    infos: dict[str, Info] = {}
    for row in ROWS:
        if row not in (COPIES, *MultiplierRole):
            infos[f"{row}.w"] = _typical_tensor(row)
    expected = expected_exponents(infos, parametrization, update_kind, t=0)
    table = {}
    for name in infos:
        shown = {"W": expected["param", name], "update": expected["update", name]}
        table[_owner(name)] = {key: _range(value) for key, value in shown.items()}
    return table


def _range(expected: Expected) -> str:
    """Return an exponent as a fraction, or the two that it must lie between."""
    ends = (expected.low, expected.high)
    low, high = (str(Fraction(end).limit_denominator(12)) for end in ends)
    return low if low == high else f"{low}..{high}"


def _typical_tensor(row: str) -> ParamInfo:
    """Return a tensor to which a row of a table applies."""
    role = Role(SPECIAL_ROWS.get(row, row))
    return ParamInfo(
        role=role,
        shape_role=role,
        shape=(1,) if row.endswith("vector") else (1, 1),
        fan_in=1,
        fan_out=1,
        m_in=1.0,
        m_out=1.0,
        init=Initializer("normal", std=1.0),
        is_embedding=row.endswith("embedding"),
    )
