"""Parametrizations as tables to read: that of a model, and the rules themselves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mupl.parametrization.rules import CELLS, Parametrization, Scale
from mupl.roles import ParamInfo, Role

if TYPE_CHECKING:
    from rich.table import Table


def scale_rows(infos: Mapping[str, ParamInfo], scales: Mapping[str, Scale]) -> list[dict[str, Any]]:
    """One row a tensor: what it is, how it is drawn, and what the optimizer is told of it."""
    return [
        {
            "name": name,
            "role": str(infos[name].role),
            "shape": "x".join(map(str, infos[name].shape)),
            "family": scale.family,
            "mult": scale.mult,
            "init_std": scale.init.std,
            "lr": scale.lr,
            "factor": scale.factor,
            "eps": scale.eps,
            "wd": scale.weight_decay,
            "grad": scale.grad,
        }
        for name, scale in scales.items()
    ]


def rule_rows(parametrization: Parametrization, family: str) -> list[dict[str, str]]:
    """One row a role, with the cells of the rule table as text."""
    rules = {role: parametrization.rule(family, role) for role in Role}
    cells = (*CELLS, "wd") if any(rule.wd for rule in rules.values()) else CELLS
    return [{"role": str(role)} | {cell: str(getattr(rule, cell)) for cell in cells} for role, rule in rules.items()]


def print_table(table: "Table") -> None:
    """To the terminal, or whole into a file, where rich would assume 80 columns and cut cells off."""
    from rich.console import Console

    Console(width=None if Console().is_terminal else 200).print(table)


def rich_table(rows: list[dict[str, Any]], title: str) -> "Table":
    """Rows of equal keys as a table for the terminal, numbers to four digits."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, value in rows[0].items():
        table.add_column(key, justify="left" if isinstance(value, str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    return table
