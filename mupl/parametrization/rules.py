"""Parametrizations: the rule tables as objects, by name, with cells replaced if a user asks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

from mupl.errors import ConfigError
from mupl.names import match_globs
from mupl.parametrization.cells import Monomial
from mupl.parametrization.tables import TABLES
from mupl.parametrization.update_kinds import DERIVED, Derived, UpdateKind
from mupl.roles import SPECIAL_ROWS, Info, MultiplierRole, Role

Overrides = Mapping[str, Mapping[str, str | float]]

# A tied readout has no row: its multiplier follows from the rows `input` and `output`.
COPIES = "copies"  # multiplies the row of a tensor with more matrices than at the base width
ROWS = (*Role, *SPECIAL_ROWS, COPIES, MultiplierRole.ATTENTION, MultiplierRole.RESIDUAL)
ONE = Monomial()
# symbols that are 1 in a row; `copies` leaves its three to the row that it multiplies
_ONES: dict[str, tuple[str, ...]] = {
    COPIES: ("m_in", "m_out", "shape_factor"),
    Role.INPUT: ("m_in",),
    Role.OUTPUT: ("m_out",),
    Role.SCALAR: ("m_in", "m_out"),
}


@dataclass(frozen=True)
class Rule:
    """One row of a table for one update kind; every cell multiplies a base value.

    `wd` multiplies decoupled weight decay; where it is None, weight decay follows from lr.
    """

    mult: Monomial = ONE
    init: Monomial = ONE
    lr: Monomial = ONE
    eps: Monomial = ONE
    grad: Monomial = ONE
    wd: Monomial | None = None

    def times(self, other: "Rule") -> "Rule":
        """Return the product of two rules, cell by cell."""
        cells = {cell: getattr(self, cell) * getattr(other, cell) for cell in CELLS}
        wd = None if self.wd is None else self.wd * (other.wd or ONE / other.lr)
        return Rule(**cells, wd=wd)


def _derived(row: str, adam: Rule, lr: Monomial, derived: Derived) -> Rule:
    """Return the rule of a row for a kind that is derived from others; see `DERIVED`.

    Args:
        adam: the rule for Adam.
        lr: of the kind whose lr it has.
    """
    lr_factor = derived.lr_factor
    eps_factor = derived.eps_factor
    for symbol in _ONES.get(SPECIAL_ROWS.get(row, row), ()):
        lr_factor = lr_factor.without(symbol)
        eps_factor = eps_factor.without(symbol)
    lr *= lr_factor
    wd = None if adam.wd is None else adam.wd * adam.lr / lr
    return replace(adam, lr=lr, eps=adam.eps * eps_factor, wd=wd)


def _width_only(rule: Rule) -> Rule:
    changed = {}
    for cell in fields(rule):
        monomial = getattr(rule, cell.name)
        if monomial is not None:
            changed[cell.name] = monomial.without("m_L")
    return replace(rule, **changed)


CELLS = tuple(f.name for f in fields(Rule) if f.name != "wd")


@dataclass(frozen=True)
class Parametrization:
    """A rule for each update kind and row.

    Args:
        name: for messages and tables.
        rules: update kind -> row -> rule. A row that is missing is all ones; a missing one of
            `SPECIAL_ROWS` is the row of its role. The row `COPIES` multiplies others (`rule_of`).
            The update kind `"*"` stands for every kind that has no rules of its own.
        overrides: glob on names -> cells in place of the table's, such as
            `{"readout.*": {"mult": 1}}` or `{"layers.1.*": {"lr": "1/m_in", "wd": 0}}`. Beside the
            cells of `Rule` there is `lr_scale` (alpha), and `wd` holds in every weight decay mode.
            Where globs overlap the later one wins.

    Example:
        >>> mup = get_parametrization("mup")
        >>> print(mup.rule("adam", "hidden").lr)
        1/m_in
        >>> mup = mup.override({"readout.weight": {"lr": 0.5}})
    """

    name: str
    rules: Mapping[str, Mapping[str, Rule]]
    overrides: Overrides = field(default_factory=dict)

    @property
    def update_kinds(self) -> list[str]:
        """The update kinds that the parametrization has rules for.

        Example:
            >>> get_parametrization("umup_output_scale").update_kinds
            ['sgd']
        """
        return [str(kind) for kind in UpdateKind if self._columns(kind) is not None]

    def rules_of(self, update_kind: str) -> Mapping[str, Rule]:
        """Return the rules for one update kind, by row.

        Raises:
            ConfigError: if the parametrization has none.
        """
        by_row = self._columns(update_kind)
        if by_row is None:
            raise ConfigError(
                f"parametrization={self.name} has no rules for the update kind '{update_kind}'; "
                f"it supports {', '.join(self.update_kinds)}"
            )
        return by_row

    def _columns(self, update_kind: str) -> Mapping[str, Rule] | None:
        """Return the rules for one update kind, its own or derived ones; None if there are none."""
        by_row = self.rules.get(update_kind, self.rules.get("*"))
        derived = DERIVED.get(update_kind)
        adam = self.rules.get(UpdateKind.ADAM)
        if by_row is not None or derived is None or adam is None:
            return by_row
        others = adam if derived.lr_of is None else self.rules.get(derived.lr_of)
        if others is None:
            return None
        found = {}
        for row in (*Role, *adam):
            lr = ONE if derived.lr_of is None else others.get(row, Rule()).lr
            found[row] = _derived(row, adam.get(row, Rule()), lr, derived)
        return found

    def rule(self, update_kind: str, row: str) -> Rule:
        """Return the rule of one row; raises ConfigError if there are none for the update kind."""
        by_row = self.rules_of(update_kind)
        if row not in by_row:
            row = SPECIAL_ROWS.get(row, row)
        return by_row.get(row, Rule())

    def rule_of(self, update_kind: str, info: Info) -> Rule:
        """Return the rule of a tensor or a multiplier.

        It is the one of its row, times the row `copies` if it holds more matrices at larger widths.

        Example:
            >>> from mupl.nn.experts import ExpertLinear
            >>> from mupl.roles import describe
            >>> infos = describe(lambda width: ExpertLinear(width // 4, width, width), 32, 8)
            >>> print(get_parametrization("mup").rule_of("adam", infos["weight"]).eps)
            1/m_out/m_copies
        """
        rule = self.rule(update_kind, info.row)
        return rule.times(self.rule(update_kind, COPIES)) if info.copies_grow else rule

    def override(self, overrides: Overrides) -> "Parametrization":
        """Return the parametrization with these cells replaced, on top of earlier overrides."""
        return replace(self, overrides={**self.overrides, **overrides})

    @property
    def has_depth(self) -> bool:
        """Whether a cell names m_L, so that something scales with depth."""
        texts = [str(self.overrides)]
        for by_row in self.rules.values():
            for rule in by_row.values():
                texts += [str(getattr(rule, cell.name)) for cell in fields(rule)]
        return any("m_L" in text for text in texts)

    def width_only(self) -> "Parametrization":
        """Return the parametrization with m_L = 1 in its table: its rules in width alone.

        For a model whose depth stays what it was where hyperparameters were tuned, or that has no
        blocks.

        Example:
            >>> print(get_parametrization("completep").width_only().rule("sgd", "hidden").lr)
            m_out/m_in
        """
        rules: dict[str, dict[str, Rule]] = {}
        for kind, by_row in self.rules.items():
            rules[kind] = {row: _width_only(rule) for row, rule in by_row.items()}
        return replace(self, rules=rules)

    def overrides_of(self, names: Iterable[str]) -> dict[str, dict[str, Monomial]]:
        """Return the cells that the overrides give to each name.

        Raises:
            ConfigError: on a glob that matches nothing, an unknown cell, text that is no cell, or
                an `lr_scale` that is no number.
        """
        found: dict[str, dict[str, Monomial]] = {name: {} for name in names}
        for glob, texts in self.overrides.items():
            cells = _parse_override(f"parametrization.overrides.{glob}", texts)
            for name in match_globs("parametrization.overrides", [glob], found):
                found[name] |= cells
        return found

    def table(self, update_kind: str) -> list[dict[str, str]]:
        """Return the rules as rows of text to print, by role; cells are factors on base values.

        `wd` is the factor on decoupled weight decay. A multiplier's row has only `mult`. The row
        `copies` is a factor on the others.

        Args:
            update_kind: one of `mupl.parametrization.update_kinds.UpdateKind`.

        Example:
            >>> get_parametrization("mup").table("adam")[1]
            ... # doctest: +NORMALIZE_WHITESPACE
            {'role': 'hidden', 'mult': '1', 'init': 'm_in^-1/2', 'lr': '1/m_in', 'eps': '1/m_out',
             'grad': '1', 'wd': 'm_in'}
        """
        by_row = self.rules_of(update_kind)
        table = []
        for row in ROWS:
            if row in (*SPECIAL_ROWS, COPIES) and row not in by_row:
                continue
            rule = self.rule(update_kind, row)
            cells = {cell: str(getattr(rule, cell)) for cell in CELLS}
            cells["wd"] = str(rule.wd or ONE / rule.lr)
            if row in list(MultiplierRole):
                cells = dict.fromkeys(cells, "") | {"mult": str(rule.mult)}
            table.append({"role": str(row), **cells})
        return table


def _parse_override(key: str, texts: Mapping[str, str | float]) -> dict[str, Monomial]:
    known = (*CELLS, "wd", "lr_scale")
    if not isinstance(texts, Mapping):
        raise ConfigError(f"{key}: must be {{cell: value}}, such as {{lr: 1/m_in}}")
    cells = {}
    for cell, text in texts.items():
        if cell not in known:
            raise ConfigError(f"{key}.{cell}: must be one of {', '.join(known)}")
        try:
            cells[cell] = Monomial.parse(text)
        except ValueError as error:
            raise ConfigError(f"{key}.{cell}: {error}") from error
        if cell == "lr_scale" and cells[cell].exponents:
            raise ConfigError(f"{key}.lr_scale={text}: lr_scale must be a number")
    return cells


@dataclass(frozen=True)
class Table:
    """What the text of a table says: what it is about, where it is from, and its rules.

    `rules` are by update kind and row.
    """

    about: str
    paper: str
    year: int
    rules: dict[str, dict[str, Rule]]


@cache
def parse_table(text: str) -> Table:
    """Read a table in the text form that `mupl.parametrization.tables` describes.

    Raises:
        ValueError: on a title without paper and year, or an unknown row, column or cell.
    """
    title, _, body = text.strip().partition("\n")
    about, _, source = title.partition(": ")
    paper, _, year = source.rpartition(", ")
    if not paper or not year.isdigit():
        raise ValueError(f"{title!r} must be a title 'ABOUT: PAPER, YEAR'")
    cells = _parse_cells(body)
    kinds = {column.rpartition(".")[0] for by_column in cells.values() for column in by_column}
    rules = {}
    for kind in sorted(kinds - {""}) or ["*"]:
        rules[kind] = {row: _rule(by_column, kind) for row, by_column in cells.items()}
    return Table(about, paper, int(year), rules)


def _parse_cells(body: str) -> dict[str, dict[str, Monomial]]:
    """Return the cells of a table by row and column, from all its blocks."""
    cells: dict[str, dict[str, Monomial]] = {}
    for block in body.split("\n\n"):
        header, *lines = block.splitlines()
        for line in lines:
            row, *texts = line.split()
            if row not in ROWS:
                raise ValueError(f"unknown row {row!r}; rows are {', '.join(ROWS)}")
            for column, text in zip(header.split(), texts, strict=True):
                cells.setdefault(row, {})[column] = Monomial.parse(text)
    return cells


def _rule(by_column: Mapping[str, Monomial], update_kind: str) -> Rule:
    """Return the rule of a row for one update kind, from the columns that hold for it."""
    values = {}
    for column, cell in by_column.items():
        kind, _, name = column.rpartition(".")
        if name not in (*CELLS, "wd"):
            raise ValueError(f"unknown column {name!r}; columns are {', '.join(CELLS)}, wd")
        if kind in ("", update_kind):
            values[name] = cell
    return Rule(**values)


def parametrizations() -> list[dict[str, Any]]:
    """Return name, subject, paper and year of every parametrization, as rows of a table to print.

    Example:
        >>> next(row for row in parametrizations() if row["name"] == "ntk")
        ... # doctest: +NORMALIZE_WHITESPACE
        {'name': 'ntk', 'about': 'neural tangent parametrization',
         'paper': 'Jacot et al., Neural Tangent Kernel', 'year': 2018}
    """
    rows = []
    for name, text in TABLES.items():
        table = parse_table(text)
        rows.append({"name": name, "about": table.about, "paper": table.paper, "year": table.year})
    return rows


def get_parametrization(
    name: str,
    overrides: Overrides | None = None,
    lr_adjustment_groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> Parametrization:
    """Return the parametrization of that name, with cells replaced by glob if asked.

    Args:
        overrides: as in `Parametrization`.
        lr_adjustment_groups: the same for learning rates alone; see `lr_overrides`.

    Raises:
        ConfigError: if there is no such parametrization.

    Example:
        >>> get_parametrization("mup").rule("sgd", "output").lr(m_in=4)
        4.0
    """
    if name not in TABLES:
        raise ConfigError(f"parametrization={name}: must be one of {', '.join(TABLES)}")
    as_tabled = Parametrization(name, parse_table(TABLES[name]).rules)
    return as_tabled.override({**lr_overrides(lr_adjustment_groups or {}), **(overrides or {})})


def as_parametrization(parametrization: str | Parametrization) -> Parametrization:
    """Return a parametrization as it is, or the one of that name.

    Raises:
        ConfigError: if it is neither.
    """
    if isinstance(parametrization, Parametrization):
        return parametrization
    if isinstance(parametrization, str):
        return get_parametrization(parametrization)
    raise ConfigError(
        f"parametrization={parametrization}: must be a mupl.Parametrization or one of "
        f"{', '.join(TABLES)}"
    )


def lr_overrides(
    groups: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, str | float]]:
    """Turn learning-rate adjustment groups, as in Cerebras' models, into overrides.

    The tensors that a filter matches get `lr * scale` instead of what the table says, and under
    decoupled weight decay `wd / scale`. Without `scale`, a number or a cell, it is `1/m_in`.

    Args:
        groups: name -> {param_filter: glob or list of globs, scale: number or cell}.

    Raises:
        ConfigError: if a group has no `param_filter` or has other keys.
    """
    overrides: dict[str, dict[str, str | float]] = {}
    for name, group in groups.items():
        if "param_filter" not in group or set(group) - {"param_filter", "scale"}:
            raise ConfigError(
                f"parametrization.lr_adjustment_groups.{name}: takes param_filter and scale"
            )
        globs = group["param_filter"]
        if isinstance(globs, str) or not isinstance(globs, Sequence):
            globs = [globs]
        for glob in globs:
            overrides[str(glob)] = {"lr": group.get("scale", "1/m_in")}
    return overrides
