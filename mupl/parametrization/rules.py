"""From a rule table to the numbers of each tensor."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

from mupl.errors import ConfigError
from mupl.initializers import Initializer
from mupl.parametrization.cells import Monomial
from mupl.parametrization.cerebras import lr_overrides
from mupl.parametrization.tables import TABLES
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind, as_optimizer_rules
from mupl.roles import MULTIPLIERS, ParamInfo, Role, match_glob

WEIGHT_DECAY_MODES = ("coupled", "decoupled", "independent")
_ONE = Monomial()


@dataclass(frozen=True)
class Rule:
    """One row of a table for one update kind; every cell multiplies a base value.

    `wd` multiplies decoupled weight decay; None: it follows from lr.
    """

    mult: Monomial = _ONE
    init: Monomial = _ONE
    lr: Monomial = _ONE
    eps: Monomial = _ONE
    grad: Monomial = _ONE
    wd: Monomial | None = None


CELLS = tuple(f.name for f in fields(Rule) if f.name != "wd")


@dataclass(frozen=True)
class Parametrization:
    """A rule for each update kind and role.

    `rules[update_kind]` may lack roles (all ones); the update_kind `"*"` stands for every update_kind that has no rules of its own.
    `overrides` maps a glob on parameter names to cells that replace the table's, e.g. `{"readout.*": {"mult": 1}}` or
    `{"layers.1.*": {"lr": "1/m_in", "wd": 0}}`; beside the cells of `Rule` they may set `wd` (a factor on the weight
    decay instead of that which follows from lr) and `lr_scale` (alpha). Where globs overlap the later one wins.
    """

    name: str
    rules: Mapping[str, Mapping[Role, Rule]]
    overrides: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)

    def rule(self, update_kind: str, role: Role) -> Rule:
        """Raises ConfigError if the parametrization has no rules for the update kind."""
        by_role = self.rules.get(update_kind, self.rules.get("*"))
        if by_role is None:
            raise ConfigError(
                f"parametrization={self.name} has no rules for the update kind {update_kind!r}; "
                f"it supports {', '.join(self.rules)}"
            )
        return by_role.get(role, Rule())

    def override(self, overrides: Mapping[str, Mapping[str, str | float]]) -> "Parametrization":
        """The same parametrization with these cells replaced, on top of earlier overrides."""
        return replace(self, overrides={**self.overrides, **overrides})


@dataclass(frozen=True)
class Scale:
    """The numbers of one tensor: `W = mult * w`, `w` drawn by `init`, and what its param group is told.

    `shape_factor` is what the optimizer itself multiplies the tensor's updates by, beside lr, as its `update_kind` there. Of a
    `Multiplier`, `mult` is its value and the rest, by default, without meaning.
    """

    mult: float
    init: Initializer
    update_kind: str
    lr: float = 0.0
    eps: float = 0.0
    weight_decay: float = 0.0
    grad: float = 1.0
    shape_factor: float = 1.0


@cache
def parse_table(text: str) -> dict[str, dict[Role, Rule]]:
    """Rules by update_kind and role from the text form that `mupl.parametrization.tables` describes.

    Raises:
        ValueError: on an unknown role, column or cell.
    """
    header, *lines = [line.split() for line in text.strip().splitlines()]
    columns = [tuple(c.split(".")) if "." in c else ("*", c) for c in header]
    update_kinds = sorted({update_kind for update_kind, _ in columns if update_kind != "*"}) or [
        "*"
    ]
    rules: dict[str, dict[Role, Rule]] = {update_kind: {} for update_kind in update_kinds}
    for role, *cells in lines:
        row = [
            (update_kind, column, Monomial.parse(cell))
            for (update_kind, column), cell in zip(columns, cells, strict=True)
        ]
        for update_kind in update_kinds:
            mine = {column: cell for owner, column, cell in row if owner in ("*", update_kind)}
            if unknown := set(mine) - {*CELLS, "wd"}:
                raise ValueError(
                    f"unknown column {sorted(unknown)}; columns are {', '.join(CELLS)}, wd"
                )
            rules[update_kind][Role(role)] = Rule(**mine)
    return rules


def get_parametrization(
    name: str,
    overrides: Mapping[str, Mapping[str, str | float]] | None = None,
    lr_adjustment_groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> Parametrization:
    """The parametrization of that name, with cells replaced by glob if asked.

    Args:
        overrides: as in `Parametrization`.
        lr_adjustment_groups: the same for learning rates alone, by named groups (see `lr_overrides`).

    Raises:
        ConfigError: if there is no such parametrization.
    """
    if name not in TABLES:
        raise ConfigError(f"parametrization={name}: must be one of {', '.join(TABLES)}")
    as_tabled = Parametrization(name, parse_table(TABLES[name]))
    return as_tabled.override({**lr_overrides(lr_adjustment_groups or {}), **(overrides or {})})


def scale(
    infos: Mapping[str, ParamInfo],
    parametrization: Parametrization,
    optimizer: UpdateKind | str | OptimizerRules,
    *,
    lr: float,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_decay_mode: str = "decoupled",
) -> dict[str, Scale]:
    """The numbers of each tensor, from the values tuned at the base width.

    With f the lr cell, weight decay is, by mode (PyTorch multiplies it by lr):
    `coupled`: `wd`; `decoupled`: `wd / f`, so that `lr * wd` does not change with width (where the table has a column
    `wd`, that times `wd`); `independent`:
    `wd / (f * lr)`, so that a step decays by `wd` times the schedule, whatever lr. The layer's `lr_scale` (alpha)
    goes where the table names it, else into f.

    Raises:
        ConfigError: on values out of range, an override that matches nothing, or an unsupported update kind.
    """
    check_hyperparameters(lr, eps, weight_decay, weight_decay_mode)
    overridden = _overrides_by_name(infos, parametrization.overrides)
    rules = as_optimizer_rules(optimizer)
    result = {}
    for name, info in infos.items():
        cells = dict(overridden[name])
        alpha, wd_factor = cells.pop("lr_scale", _ONE)(), cells.pop("wd", None)
        update_kind = rules.kind_of(info)
        tied = info.role is Role.TIED
        row = (
            tied_rule(parametrization, infos, rules)
            if tied
            else parametrization.rule(update_kind, info.role)
        )
        rule = replace(row, **cells)
        symbols = info.symbols | {"alpha": alpha, "shape_factor": rules.relative_shape_factor(info)}
        value = {cell: getattr(rule, cell)(**symbols) for cell in CELLS}
        if info.role in MULTIPLIERS:
            result[name] = Scale(info.init.mean * value["mult"], info.init, update_kind)
            continue
        if not any("alpha" in getattr(rule, cell).exponents for cell in CELLS):
            value["lr"] *= alpha
        if wd_factor is not None:
            decay = wd_factor(**symbols)
        elif weight_decay_mode == "coupled" or value["lr"] == 0:
            decay = 1.0
        elif weight_decay_mode == "decoupled" and rule.wd is not None:
            decay = rule.wd(**symbols)
        else:
            decay = 1 / value["lr"] / (lr if weight_decay_mode == "independent" else 1)
        result[name] = Scale(
            mult=value["mult"],
            init=info.init.scaled(value["init"]),
            update_kind=update_kind,
            lr=lr * value["lr"],
            eps=eps * value["eps"],
            weight_decay=weight_decay * decay,
            grad=value["grad"],
            shape_factor=rules.shape_factor(update_kind, info.fan_out, info.fan_in),
        )
    return result


def tied_rule(
    parametrization: Parametrization, infos: Mapping[str, ParamInfo], rules: OptimizerRules
) -> Rule:
    """The row of a readout whose matrix is the embedding's, which is drawn and trained by the row `input`.

    Its multiplier makes the effective matrix start as the row `output` says. The rows are those of the embedding's
    update_kind; where the model's is no `nn.Embedding`, of the update_kind that the optimizer gives to the readout itself.

    Raises:
        ConfigError: if the two rows train their tensors differently: then no multiplier makes one tensor do for both.
    """
    matrices = [info for info in infos.values() if info.is_embedding]
    update_kind = rules.kind_of(
        (matrices or [info for info in infos.values() if info.role is Role.TIED])[0]
    )
    given, wanted = (parametrization.rule(update_kind, role) for role in (Role.INPUT, Role.OUTPUT))
    for cell in ("lr", "eps", "grad"):
        mine, other = getattr(given, cell).replace("m_out", "m_in"), getattr(wanted, cell)
        if mine != other:
            raise ConfigError(
                f"model.tied=true: parametrization={parametrization.name} gives the {cell} of an embedding the factor "
                f"{mine} and that of a readout {other}, so they cannot be one tensor; take a formulation with an "
                f"output multiplier, such as mup"
            )
    return Rule(mult=wanted.mult * wanted.init / (given.mult * given.init).replace("m_out", "m_in"))


def check_hyperparameters(
    lr: float, eps: float, weight_decay: float, weight_decay_mode: str
) -> None:
    """Raises ConfigError, naming the key, unless lr > 0, eps >= 0, weight_decay >= 0 and the mode is known."""
    for key, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        if not 0 <= value < math.inf or (key == "lr" and value == 0):
            raise ConfigError(
                f"{key}={value}: must be a finite number {'> 0' if key == 'lr' else '>= 0'}"
            )
    if weight_decay_mode not in WEIGHT_DECAY_MODES:
        raise ConfigError(
            f"weight_decay_mode={weight_decay_mode}: must be one of {', '.join(WEIGHT_DECAY_MODES)}"
        )


def _overrides_by_name(
    names: Mapping[str, ParamInfo], overrides: Mapping[str, Mapping[str, str | float]]
) -> dict[str, dict[str, Monomial]]:
    found: dict[str, dict[str, Monomial]] = {name: {} for name in names}
    for glob, cells in overrides.items():
        matches = match_glob(glob, found, "parametrization.overrides")
        for cell, text in cells.items():
            if cell not in (*CELLS, "wd", "lr_scale"):
                raise ConfigError(
                    f"parametrization.overrides.{glob}.{cell}: must be one of {', '.join(CELLS)}, wd, lr_scale"
                )
            try:
                value = Monomial.parse(text)
            except ValueError as error:
                raise ConfigError(f"parametrization.overrides.{glob}.{cell}: {error}") from error
            for name in matches:
                found[name][cell] = value
    return found
