"""From the rules to the numbers of each tensor."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mupl.errors import ConfigError
from mupl.initializers import Initializer
from mupl.parametrization.cells import Monomial
from mupl.parametrization.hyperparameters import check_hyperparameters, decay_exponent
from mupl.parametrization.per_module import Factors, Tune, factors_of
from mupl.parametrization.rules import CELLS, ONE, Parametrization, Rule
from mupl.parametrization.update_kinds import RELATIVES, OptimizerRules
from mupl.plain_table import aligned
from mupl.roles import (
    Info,
    Insertion,
    MultiplierInfo,
    MultiplierRole,
    OwnValues,
    ParamInfo,
    Role,
)


@dataclass(frozen=True)
class Scale:
    """The numbers of one tensor, which acts as `W = mult * w`; or of one multiplier.

    Args:
        mult: the multiplier of the tensor, or the value of a multiplier itself. The latter is not
            trained, so the rest is without meaning for it.
        init: what `w` is drawn from.
        update_kind: how the optimizer's updates of the tensor scale.
        inner_kind: the kind of an update before it is divided by its norm; None: it is not.
        parts: numbers of outputs of the matrices into which the optimizer cuts the tensor.
        part_factors: their shape factors.
        transposed: whether the tensor is a matrix that is stored as (fan_in, fan_out).
        batch_dims: how many of its first dimensions count matrices, as in `ParamInfo`.
        lr, eps, weight_decay: for the tensor's param group.
        matrix_eps: the same, of an optimizer that takes roots of sums of `G G^T`; None: it does
            not.
        grad: factor on the gradient of `w` before the optimizer sees it.
        shape_factor: what the optimizer multiplies an update of this shape by, beside lr.
        shape: of the tensor that these numbers are for; None: not known.
        init_factor: what own values of the model are multiplied by, beside bringing them to the
            scale that they have at the base width.
        own: those values; None: `w` is drawn from `init`.
        insertion: where a multiplier acts that the model has no module for.
        factors: on what was tuned, of this module alone; the other numbers contain them.

    Example:
        >>> Scale(mult=0.25, init=Initializer("normal", std=0.5), update_kind="adam", lr=0.1).grad
        1.0
    """

    mult: float
    init: Initializer
    update_kind: str
    lr: float = 0.0
    eps: float = 0.0
    weight_decay: float = 0.0
    matrix_eps: float | None = None
    grad: float = 1.0
    shape_factor: float = 1.0
    inner_kind: str | None = None
    parts: tuple[int, ...] = ()
    part_factors: tuple[float, ...] = ()
    transposed: bool = False
    batch_dims: int = 0
    shape: tuple[int, ...] | None = None
    init_factor: float = 1.0
    own: OwnValues | None = None
    insertion: Insertion | None = None
    factors: Factors = field(default_factory=Factors)

    @property
    def inserted(self) -> float:
        """What is put into the model of an insertion's multiplier: the model has the rest."""
        assert self.insertion is not None
        factor = self.mult / self.insertion.own
        return 1.0 if math.isclose(factor, 1, rel_tol=1e-12) else factor


def compute_scales(
    infos: Mapping[str, Info],
    parametrization: Parametrization,
    rules: OptimizerRules,
    *,
    lr: float,
    eps: float,
    weight_decay: float,
    weight_decay_mode: str | float,
    tune: Tune | None = None,
) -> dict[str, Scale]:
    """Return the numbers of each tensor and multiplier, from the values tuned at the base width.

    `mupl.optim.scaling.scale` is this function with names for objects, and says more.

    Raises:
        ConfigError: on values out of range, an override that matches nothing, or an update kind
            that the parametrization does not support.
    """
    check_hyperparameters(lr, eps, weight_decay, weight_decay_mode)
    # param groups with numbers of numpy are not loaded again by torch.load
    lr, eps, weight_decay = float(lr), float(eps), float(weight_decay)
    factors = factors_of(infos, tune or {}, weight_decay)
    overrides = parametrization.overrides_of(infos)
    scales = {}
    for name, info in infos.items():
        own = factors[name]
        tuned = _Tuned(
            lr * own.lr, eps * own.eps, weight_decay * own.weight_decay, weight_decay_mode, own
        )
        if info.row == MultiplierRole.TIED:
            rule = tied_rule(parametrization, infos, rules)
        else:
            rule = parametrization.rule_of(rules.kind_of(info), info)
        if isinstance(info, MultiplierInfo):
            scales[name] = _scale_multiplier(info, rule, overrides[name], rules, own)
        else:
            tuned_here = _with_own_decay(name, info, overrides[name], rules, tuned)
            scale = _scale_tensor(info, rule, overrides[name], rules, tuned_here)
            scales[name] = replace(scale, matrix_eps=_matrix_eps(info, parametrization, rules))
    return scales


class _Tuned(NamedTuple):
    """The hyperparameters of a tensor, as they are right at the base width."""

    lr: float
    eps: float
    weight_decay: float
    weight_decay_mode: str | float
    factors: Factors  # which lr, eps and weight_decay contain


def _with_own_decay(
    name: str,
    info: ParamInfo,
    override: Mapping[str, Monomial],
    rules: OptimizerRules,
    tuned: _Tuned,
) -> _Tuned:
    """Return the hyperparameters of a tensor, whose update may have a weight decay of its own.

    Raises:
        ConfigError: if the user says another one, or the tensor has no norm that could be kept.
    """
    kind = rules.kind_of(info)
    if kind in RELATIVES and info.init.std == info.init.mean == 0:
        raise ConfigError(
            f"optimizer.roles: {name!r} starts at 0, and a norm of 0 that is kept lets it never "
            f"move; leave {info.role} out of the roles, or give it other initial values"
        )
    if kind not in rules.own_decay:
        return tuned
    own = rules.own_decay[kind]
    is_off = "wd" in override and override["wd"].coefficient == 0
    if tuned.weight_decay and not is_off:
        raise ConfigError(
            f"weight_decay={tuned.weight_decay}: the optimizer itself sets the weight decay of "
            f"{name!r}, to {own:g}; say weight_decay=0, or for the other tensors alone "
            f"parametrization.overrides={{{name}: {{wd: 0}}}} of all such tensors"
        )
    return tuned._replace(weight_decay=own, weight_decay_mode="decoupled")


def _scale_multiplier(
    info: MultiplierInfo,
    rule: Rule,
    override: Mapping[str, Monomial],
    rules: OptimizerRules,
    own: Factors,
) -> Scale:
    mult = override.get("mult", rule.mult)(**_symbols(info, override, rules)) * own.mult
    init = Initializer("constant", info.value)
    kind = rules.kind_of(info)
    return Scale(info.value * mult, init, kind, insertion=info.insertion, factors=own)


def _scale_tensor(
    info: ParamInfo,
    rule: Rule,
    override: Mapping[str, Monomial],
    rules: OptimizerRules,
    tuned: _Tuned,
) -> Scale:
    symbols = _symbols(info, override, rules)
    cells = {cell: override.get(cell, getattr(rule, cell)) for cell in CELLS}
    factors = {name: cell(**symbols) for name, cell in cells.items()}
    if not any("alpha" in cell.exponents for cell in cells.values()):
        factors["lr"] *= symbols["alpha"]
    if "wd" in override:
        wd_factor = override["wd"](**symbols)
    else:
        wd_factor = _weight_decay_factor(rule.wd, symbols, factors["lr"], tuned)
    factors["mult"] *= tuned.factors.mult
    factors["init"] *= tuned.factors.init
    init_factor = 1 / factors["mult"] if info.kept else factors["init"]
    return Scale(
        mult=factors["mult"],
        init=info.init.scaled(init_factor),
        update_kind=str(rules.kind_of(info)),
        lr=tuned.lr * factors["lr"],
        eps=tuned.eps * factors["eps"],
        weight_decay=tuned.weight_decay * wd_factor,
        grad=factors["grad"],
        shape_factor=rules.shape_factor(info),
        inner_kind=rules.inner_kind(info),
        parts=rules.parts(info),
        part_factors=rules.part_factors(info),
        transposed=len(info.copy_shape) == 2 and not info.out_first,
        batch_dims=info.batch_dims,
        shape=info.shape,
        init_factor=init_factor,
        own=info.own,
        factors=tuned.factors,
    )


def _matrix_eps(
    info: ParamInfo, parametrization: Parametrization, rules: OptimizerRules
) -> float | None:
    if rules.matrix_eps is None:
        return None
    of_sums = parametrization.rule_of(rules.matrix_eps.kind_of(info), info)
    return rules.matrix_eps.value * float(of_sums.eps(**_symbols(info, {}, rules)) ** 2)


def _symbols(
    info: Info, override: Mapping[str, Monomial], rules: OptimizerRules
) -> dict[str, float]:
    """Return the values of all symbols that a cell may name."""
    alpha = override.get("lr_scale", ONE)()
    return {
        **info.symbols,
        "alpha": alpha,
        "shape_factor": rules.relative_shape_factor(info),
    }


def _weight_decay_factor(
    wd: Monomial | None, symbols: Mapping[str, float], lr_factor: float, tuned: _Tuned
) -> float:
    if tuned.weight_decay_mode == "coupled" or lr_factor == 0:
        return 1.0
    if tuned.weight_decay_mode == "independent":
        return 1 / lr_factor / tuned.lr
    factor = 1 / lr_factor if wd is None else wd(**symbols)
    return float(factor * symbols["m_in"] ** -decay_exponent(tuned.weight_decay_mode))


def tied_rule(
    parametrization: Parametrization, infos: Mapping[str, Info], rules: OptimizerRules
) -> Rule:
    """Return the rule of a readout whose matrix is the embedding's.

    The matrix is drawn and trained by the row of the embedding; the multiplier of the readout
    makes the effective matrix start as the row `output` says. Both rows belong to the update kind
    of the embedding; where the model has no `nn.Embedding`, of the readout itself.

    Raises:
        ConfigError: if the two rows train their tensors differently: then no multiplier makes one
            tensor do for both.
    """
    tensors = [info for info in infos.values() if isinstance(info, ParamInfo)]
    matrices = [info for info in tensors if info.is_embedding]
    if matrices:
        update_kind = rules.kind_of(matrices[0])
        embedding = parametrization.rule(update_kind, matrices[0].row)
    else:
        readouts = [info for info in infos.values() if info.row == MultiplierRole.TIED]
        update_kind = rules.kind_of(readouts[0])
        embedding = parametrization.rule(update_kind, Role.INPUT)
    readout = parametrization.rule(update_kind, Role.OUTPUT)
    for cell in ("lr", "eps", "grad"):
        given = _transposed(getattr(embedding, cell))
        wanted = getattr(readout, cell)
        if given != wanted:
            raise ConfigError(
                f"{_tie(infos)}: parametrization={parametrization.name} scales the {cell} of an "
                f"embedding by {given} and the {cell} of a readout by {wanted}, so they cannot be "
                "one tensor; take a formulation with an output multiplier, such as mup, and under "
                "SOAP update_kind=rotated or adam"
            )
    given = _transposed(embedding.mult * embedding.init)
    return Rule(mult=readout.mult * readout.init / given)


def _tie(infos: Mapping[str, Info]) -> str:
    """Name the tie that a table has no rules for."""
    for name, info in infos.items():
        if isinstance(info, MultiplierInfo) and info.tensor is not None:
            return f"{name!r} reads out by {info.tensor!r}"
    return "model.tied=true"


def _transposed(cell: Monomial) -> Monomial:
    """Return a cell of the embedding in the symbols of its transpose, the readout."""
    return cell.replace("m_out", "m_in").replace("fan_out", "fan_in")


def check_scales(scales: object) -> None:
    """Refuse what is no dict of `Scale` by name, such as infos in their place."""
    if not isinstance(scales, Mapping) or not all(isinstance(s, Scale) for s in scales.values()):
        raise ConfigError("scales: must be what mupl.scale(infos, parametrization, ...) returns")


# What columns of `scale_rows` hold where they change nothing
NEUTRAL = {"shape_factor": 1, "parts": "", "wd": 0, "grad": 1}


def telling(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the columns of `scale_rows` that say nothing of any tensor."""
    silent = []
    for key, value in NEUTRAL.items():
        if all(row[key] == value for row in rows):
            silent.append(key)
    kinds = {row["update_kind"] for row in rows}
    if len(kinds) == 1:  # the optimizer's
        silent.append("update_kind")
    return [{key: row[key] for key in row if key not in silent} for row in rows]


class TensorTable(list[dict[str, Any]]):
    """The rows of `scale_rows`; `print` shows them as a table."""

    def __str__(self) -> str:
        """Lay out the columns that say something."""
        return aligned(telling(self))


def scale_rows(infos: Mapping[str, Info], scales: Mapping[str, Scale]) -> TensorTable:
    """Return one row a tensor to print: what it is, how it is drawn, what its param group holds.

    Columns `matrix_eps` and `tune` are there where an optimizer takes roots of sums, and where
    factors are tuned by module.
    """
    rows = TensorTable()
    any_tuned = any(scale.factors != Factors() for scale in scales.values())
    any_matrix_eps = any(scale.matrix_eps is not None for scale in scales.values())
    for name, scale in scales.items():
        init = scale.init
        rows.append(
            {
                "name": name,
                "role": str(infos[name].role),
                "shape": "x".join(map(str, infos[name].shape)),
                "update_kind": scale.update_kind,
                "mult": scale.mult,
                "init": _init_name(infos[name], init),
                "init_std": init.std,
                "lr": scale.lr,
                "shape_factor": scale.shape_factor,
                "parts": _parts(scale.parts),
                "eps": scale.eps,
                "wd": scale.weight_decay,
                "grad": scale.grad,
            }
        )
        if any_matrix_eps:
            rows[-1]["matrix_eps"] = scale.matrix_eps
        if any_tuned:
            rows[-1]["tune"] = str(scale.factors)
    return rows


def _parts(sizes: tuple[int, ...]) -> str:
    """Say into which matrices a tensor is cut: "3 x 64", or the sizes "64 + 16 + 16"."""
    if len(set(sizes)) > 1:
        return " + ".join(map(str, sizes))
    return f"{len(sizes)} x {sizes[0]}" if sizes else ""


def _init_name(info: Info, init: Initializer) -> str:
    if isinstance(info, ParamInfo) and info.kept:
        return "kept"
    return f"const {init.mean:g}" if init.std == 0 else init.name
