"""Parametrizations as tables to read: that of a model, and the rules themselves."""

from collections.abc import Mapping
from typing import Any

from mupl.parametrization.rules import CELLS, Parametrization, Scale
from mupl.roles import ParamInfo, Role


def scale_rows(infos: Mapping[str, ParamInfo], scales: Mapping[str, Scale]) -> list[dict[str, Any]]:
    """One row a tensor: what it is, how it is drawn, and what the optimizer is told of it."""
    return [
        {
            "name": name,
            "role": str(infos[name].role),
            "shape": "x".join(map(str, infos[name].shape)),
            "update_kind": scale.update_kind,
            "mult": scale.mult,
            "init_std": scale.init.std,
            "lr": scale.lr,
            "shape_factor": scale.shape_factor,
            "eps": scale.eps,
            "wd": scale.weight_decay,
            "grad": scale.grad,
        }
        for name, scale in scales.items()
    ]


def rule_rows(parametrization: Parametrization, update_kind: str) -> list[dict[str, str]]:
    """One row a role, with the cells of the rule table as text."""
    rules = {role: parametrization.rule(update_kind, role) for role in Role}
    cells = (*CELLS, "wd") if any(rule.wd for rule in rules.values()) else CELLS
    return [
        {"role": str(role)} | {cell: str(getattr(rule, cell)) for cell in cells}
        for role, rule in rules.items()
    ]
