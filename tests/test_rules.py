"""Tables, cells and what becomes of them for a model."""

import math
import re
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from mupl.errors import ConfigError
from mupl.initializers import Initializer
from mupl.models import MLP
from mupl.nn.initialize import initialize_, parameters
from mupl.optim.groups import param_groups
from mupl.parametrization.cells import SYMBOLS, Monomial
from mupl.parametrization.report import rule_rows, scale_rows
from mupl.parametrization.rules import (
    CELLS,
    WEIGHT_DECAY_MODES,
    Scale,
    get_parametrization,
    parse_table,
    scale,
)
from mupl.parametrization.tables import TABLES
from mupl.roles import Role, describe
from mupl.terminal import rich_table


def build(width: int) -> nn.Module:
    return MLP(6, 3, width)


def numbers_of(
    name: str = "mup",
    update_kind: str = "adam",
    width: int = 32,
    overrides: dict | None = None,
    **tuned: Any,
) -> dict[str, Scale]:
    parametrization = get_parametrization(name, overrides)
    return scale(describe(build, width, 8), parametrization, update_kind, **{"lr": 0.1} | tuned)


@pytest.mark.parametrize(
    ("text", "value", "printed"),
    [
        ("1", 1, "1"),
        ("m_out/m_in", 0.75, "m_out/m_in"),
        ("m_in^-1/2", 0.5, "m_in^-1/2"),
        ("1/m_in", 0.25, "1/m_in"),
        ("sigma*m_in^-1/2/m_out", 2 / 2 / 3, "m_in^-1/2*sigma/m_out"),
        ("m_out/sigma^2", 0.75, "m_out/sigma^2"),
        ("0.5*m_in", 2, "0.5*m_in"),
        ("m_in/m_in", 1, "1"),
        (0.125, 0.125, "0.125"),
        ("0", 0, "0"),
    ],
)
def test_cells_are_parsed_evaluated_and_printed(text: str, value: float, printed: str) -> None:
    cell = Monomial.parse(text)
    assert cell(m_in=4, m_out=3, sigma=2) == pytest.approx(value)
    assert str(cell) == printed
    assert Monomial.parse(printed) == cell


@pytest.mark.parametrize("text", ["m_inn", "m_in+1", "2**m_in", "m_in^x", "", "fan_in"])
def test_a_cell_that_is_no_monomial_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is no product of powers"):
        Monomial.parse(text)


def test_monomials_are_an_exact_group() -> None:
    cell = Monomial.parse("m_in^1/3*m_out")
    assert cell / cell == Monomial()
    assert (cell**3).exponents == {"m_in": Fraction(1), "m_out": Fraction(3)}


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_of_every_table_is_one_at_the_base_width(name: str) -> None:
    parametrization = get_parametrization(name)
    for update_kind, by_role in parametrization.rules.items():
        for role, rule in by_role.items():
            for cell in CELLS:
                symbols = dict.fromkeys(SYMBOLS, 1.0)
                assert getattr(rule, cell)(**symbols) == 1, (update_kind, role, cell)


def test_a_table_with_an_unknown_column_or_role_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown column"):
        parse_table("initt\n input 1")
    with pytest.raises(ValueError, match="middle"):
        parse_table("init\n middle 1")


def test_the_numbers_of_table_8_under_adam() -> None:
    numbers = numbers_of(eps=1e-4, weight_decay=0.3)
    rows = {row["name"]: row for row in scale_rows(describe(build, 32, 8), numbers)}
    expected = {
        "layers.0.weight": ("input", "32x6", 1, 6**-0.5, 0.1, 1e-4 / 4, 0.3),
        "layers.1.weight": ("hidden", "32x32", 1, 32**-0.5, 0.1 / 4, 1e-4 / 4, 0.3 * 4),
        "layers.1.bias": ("input", "32", 1, 0, 0.1, 1e-4 / 4, 0.3),
        "readout.weight": ("output", "3x32", 1 / 4, 8**-0.5, 0.1, 1e-4 / 4, 0.3),
        "readout.bias": ("scalar", "3", 1, 0, 0.1, 1e-4, 0.3),
    }
    for name, (role, shape, *values) in expected.items():
        assert (rows[name]["role"], rows[name]["shape"]) == (role, shape)
        assert [rows[name][k] for k in ("mult", "init_std", "lr", "eps", "wd")] == pytest.approx(
            values
        ), name


@pytest.mark.parametrize("mode", WEIGHT_DECAY_MODES)
def test_weight_decay_modes(mode: str) -> None:
    steps = []
    for lr, width in ((0.1, 8), (0.1, 32), (0.4, 32)):
        scale = numbers_of(width=width, lr=lr, weight_decay=0.5, weight_decay_mode=mode)[
            "layers.1.weight"
        ]
        steps.append(scale.lr * scale.weight_decay)
    expected = {
        "coupled": [0.05, 0.05 / 4, 0.2 / 4],
        "decoupled": [0.05, 0.05, 0.2],
        "independent": [0.5, 0.5, 0.5],
    }
    assert steps == pytest.approx(expected[mode])


def test_overrides_replace_cells_by_glob_and_the_later_one_wins() -> None:
    overrides = {"layers.*": {"lr": 0.5}, "layers.1.*": {"lr": "m_in^-1/2", "wd": 0, "init": 2}}
    numbers = numbers_of(overrides=overrides, weight_decay=1)
    assert numbers["layers.0.weight"].lr == pytest.approx(0.05)
    assert numbers["layers.0.weight"].weight_decay == pytest.approx(2)
    assert numbers["layers.1.weight"].lr == pytest.approx(0.05)
    assert numbers["layers.1.weight"].weight_decay == 0
    assert numbers["layers.1.weight"].init.std == pytest.approx(2 * 8**-0.5)
    assert numbers["readout.weight"].lr == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"overrides": {"layer.*": {"lr": 1}}}, "'layer.*' matches no parameter"),
        ({"overrides": {"layers.*": {"rate": 1}}}, "layers.*.rate: must be one of"),
        ({"overrides": {"layers.*": {"lr": "1/width"}}}, "layers.*.lr: '1/width' is no product"),
        ({"lr": -1.0}, "lr=-1"),
        ({"lr": math.nan}, "lr=nan"),
        ({"eps": -1.0}, "eps=-1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"weight_decay_mode": "both"}, "weight_decay_mode=both"),
        ({"name": "mupp"}, "parametrization=mupp: must be one of sp, ntk"),
        (
            {"name": "cerebras", "update_kind": "sgd"},
            "cerebras has no rules for the update kind 'sgd'; it supports adam",
        ),
    ],
)
def test_bad_input_is_one_clear_error(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        numbers_of(**arguments)


def test_lr_adjustment_groups_set_the_learning_rate_and_decouple_weight_decay() -> None:
    groups = {
        "hidden": {"param_filter": ["layers.1.weight", "layers.2.weight"], "scale": 0.125},
        "first": {"param_filter": "layers.0.*"},
    }
    parametrization = get_parametrization("cerebras", lr_adjustment_groups=groups)
    numbers = scale(describe(build, 32, 8), parametrization, "adam", lr=0.1, weight_decay=0.2)
    assert numbers["layers.1.weight"].lr == pytest.approx(0.1 / 8)
    assert numbers["layers.2.weight"].weight_decay == pytest.approx(0.2 * 8)
    assert numbers["layers.0.bias"].lr == pytest.approx(0.1)  # 1/m_in, and a bias has m_in = 1
    for bad in ({"hidden": {"scale": 1}}, {"hidden": {"param_filter": "*", "scael": 1}}):
        with pytest.raises(ConfigError, match="takes param_filter and scale"):
            get_parametrization("cerebras", lr_adjustment_groups=bad)


def test_effective_weights_have_the_std_of_the_table() -> None:
    for name in (name for name in TABLES if not name.startswith("umup")):
        infos = describe(lambda w: MLP(64, 10, w), 512, 64)
        numbers = scale(infos, get_parametrization(name), "adam", lr=0.1)
        model = initialize_(MLP(64, 10, 512), numbers, torch.Generator().manual_seed(0))
        for tensor, w in parameters(model, numbers).items():
            if tensor.endswith("weight"):
                expected = numbers[tensor].init.std
                assert w.std().item() == pytest.approx(expected, rel=0.05), (name, tensor)
        # W = mult * w: the hidden std is 1/sqrt(fan_in) in every table, the readout's is that of SP or of muP
        hidden, readout = (
            numbers[n].mult * numbers[n].init.std for n in ("layers.1.weight", "readout.weight")
        )
        assert hidden == pytest.approx(512**-0.5)
        assert readout == pytest.approx(
            512**-0.5 if name in ("sp", "ntk", "sp_full_align") else 64**-0.5 / 8
        )


def test_applying_twice_is_applying_once() -> None:
    model = nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3))
    names = {"0.weight", "0.bias", "1.weight", "1.bias"}
    infos = describe(lambda w: nn.Sequential(nn.Linear(6, w), nn.Linear(w, 3)), 32, 8)
    first, second = (
        scale(infos, get_parametrization(p), "adam", lr=0.1) for p in ("unit_init", "mup")
    )
    initialize_(model, first, torch.Generator().manual_seed(0))
    initialize_(model, second, torch.Generator().manual_seed(0))
    once = initialize_(
        nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3)), second, torch.Generator().manual_seed(0)
    )
    x = torch.randn(4, 6)
    assert torch.equal(model(x), once(x))
    assert set(parameters(model, second)) == names


def test_param_groups_hold_each_tensor_once_by_name() -> None:
    numbers = numbers_of(weight_decay=0.3)
    model = build(32)
    model.readout.bias.requires_grad_(False)
    groups = param_groups(parameters(model, numbers), numbers)
    names = [name for group in groups for name, _ in group["params"]]
    assert sorted(names) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW(groups)
    by_name = {n: group for group in optimizer.param_groups for n in group["param_names"]}
    for name, group in by_name.items():
        assert (group["lr"], group["eps"], group["weight_decay"]) == (
            numbers[name].lr, numbers[name].eps, numbers[name].weight_decay,
        )  # fmt: skip
    assert len(groups) == 2  # hidden weights, and the rest


def test_the_printed_table_is_the_table_of_rules() -> None:
    rows = rule_rows(get_parametrization("mup"), "adam")
    assert rows[1] == {
        "role": "hidden",
        "mult": "1",
        "init": "m_in^-1/2",
        "lr": "1/m_in",
        "eps": "1/m_out",
        "grad": "1",
    }
    assert rule_rows(get_parametrization("depth_mup"), "adam")[1]["wd"] == "m_in"
    table = rich_table(rows, "mup")
    assert (table.row_count, len(table.columns)) == (len(Role), 1 + len(CELLS))


def test_a_constant_tensor_keeps_its_effective_value_under_a_multiplier() -> None:
    def norm(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, width), nn.LayerNorm(width))

    infos = describe(norm, 32, 8)
    assert infos["1.weight"].init == Initializer("constant", 1.0)
    for name in (
        name for name in TABLES if name != "umup_output_scale"
    ):  # it has no rules for Adam
        model = initialize_(norm(32), scale(infos, get_parametrization(name), "adam", lr=0.1))
        torch.testing.assert_close(model[1].weight, torch.ones(32))
