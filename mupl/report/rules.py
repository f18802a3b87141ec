"""Rule tables to read: a parametrization under one optimizer, and the shift from one to another."""

from collections.abc import Mapping

import torch
from torch import nn

from mupl.nn.multipliers import Multiplier, Residual
from mupl.optim.registry import OptimizerLike, optimizer_rules
from mupl.parametrization.cells import Monomial
from mupl.parametrization.exponents import Expected, expected_exponents
from mupl.parametrization.rules import Parametrization, get_parametrization
from mupl.parametrization.symmetry import shift_rule
from mupl.roles import ParamInfo, describe

UPDATES_DONE = 1  # by then a gradient has passed every layer, also where the readout starts at 0


class _Reference(nn.Module):
    """One tensor for each row of a table."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(3, width)
        self.hidden = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, 3)
        self.attention = Multiplier("attention", fan_in=width)
        self.residual = Residual()


# Row of the printed table -> tensor of the reference model
ROWS = {
    "input": "input.weight",
    "hidden": "hidden.weight",
    "output": "output.weight",
    "bias, gain": "input.bias",
    "scalar": "output.bias",
    "attention": "attention",
    "residual": "residual",
}


def rule_table(parametrization: Parametrization, optimizer: OptimizerLike) -> list[dict[str, str]]:
    """List one row a role: what multiplies each base value, and the predicted exponents of width.

    `weights`, `updates` and `outputs` are slopes of log2(mean |x|) against log2(width) that a
    coordinate check must see after one update.

    Raises:
        ConfigError: if the parametrization has no rules for the optimizer's updates.
    """
    infos = describe(_Reference, width=4, base_width=2)
    rules = optimizer_rules(optimizer)
    expected = expected_exponents(infos, parametrization, rules, t=UPDATES_DONE)
    table = []
    for row, name in ROWS.items():
        info = infos[name]
        kind = rules.kind_of(info)
        rule = parametrization.rule_for(kind, info)
        table.append(
            {
                "role": row,
                "update kind": str(kind),
                "init std": str(rule.init),
                "multiplier": str(rule.mult),
                "gradient": str(rule.grad),
                "lr": str(rule.lr),
                "eps": str(rule.eps),
                "lr * weight decay": "1" if rule.wd is None else str(rule.lr * rule.wd),
                "weights": _slope(expected.get(("param", name))),
                "updates": _slope(expected.get(("update", name))),
                "outputs": _slope(expected.get(("output", name.removesuffix(".weight")))),
            }
        )
    return table


def theta_table(source: str, target: str, optimizer: OptimizerLike) -> list[dict[str, str]]:
    """List one row a role: the theta by which `source` must be shifted to become `target`.

    A shift is `mult *= theta, init /= theta` with lr and eps in step (`mupl.shift`); it changes no
    training trajectory. Where there is none, the row says what stays different.
    """
    before, after = get_parametrization(source), get_parametrization(target)
    rules = optimizer_rules(optimizer)
    table = []
    for row, name in ROWS.items():
        info = describe(_Reference, width=4, base_width=2)[name]
        kind = rules.kind_of(info)
        old, new = before.rule_for(kind, info), after.rule_for(kind, info)
        theta = new.mult / old.mult
        differs = _differences(shift_rule(old, theta, kind), new)
        verdict = f"no shift: {', '.join(differs)} differ" if differs else "same trajectory"
        table.append({"role": row, "theta": str(theta), "": verdict})
    return table
