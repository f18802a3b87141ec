"""Tables, cells and what becomes of them for a model."""

import copy
import math
import re
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mupl.errors import ConfigError
from mupl.initializers import Initializer
from mupl.models import GPT, MLP
from mupl.nn.initialize import initialize_
from mupl.nn.multipliers import Residual
from mupl.nn.scaled_parameters import effective
from mupl.nn.tensors import parameters
from mupl.nn.unit_scaling import UnitLinear
from mupl.optim.elementwise import Lion
from mupl.optim.groups import param_groups
from mupl.optim.registry import optimizer_rules
from mupl.optim.scaling import scale
from mupl.parametrization.cells import SYMBOLS, Monomial
from mupl.parametrization.exponents import Expected, expected_exponents, table_with_exponents
from mupl.parametrization.hyperparameters import WEIGHT_DECAY_MODES
from mupl.parametrization.rules import (
    CELLS,
    ROWS,
    get_parametrization,
    parametrizations,
    parse_table,
)
from mupl.parametrization.scales import Scale, scale_rows
from mupl.parametrization.tables import TABLES
from mupl.parametrization.update_kinds import UpdateKind
from mupl.roles import SPECIAL_ROWS, Role, describe
from mupl.roles.infos import Infos
from mupl.terminal import rich_table


def build(width: int) -> nn.Module:
    return MLP(6, 3, width)


@pytest.fixture(scope="module")
def infos() -> Infos:
    return describe(build, 32, 8)


def numbers_of(
    name: str = "mup",
    update_kind: str = "adam",
    width: int = 32,
    overrides: dict | None = None,
    **tuned: Any,
) -> dict[str, Scale]:
    parametrization = get_parametrization(name, overrides)
    infos = describe(build, width, 8)
    return scale(infos, parametrization, update_kind, **{"lr": 0.1} | tuned)


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
        ("m_out / m_in * 2", 1.5, "2*m_out/m_in"),
        ("0", 0, "0"),
    ],
)
def test_cells_are_parsed_evaluated_and_printed(text: str, value: float, printed: str) -> None:
    cell = Monomial.parse(text)
    assert cell(m_in=4, m_out=3, sigma=2) == pytest.approx(value)
    assert str(cell) == printed
    assert Monomial.parse(printed) == cell


OF_SP_CLASS = ("sp", "ntk", "sp_full_align", "ntk_full_align")

NO_CELLS = ["m_inn", "m_in+1", "2**m_in", "m_in^x", "", "width", "/m_in", "m_in*", "_", "inf"]
NO_CELLS += ["m_in m_out", "2m_in", "2 3", "m_in^1/0", "1/0", "0^-1", "1.2.3", "10^1000", "1e999"]


@pytest.mark.parametrize("text", NO_CELLS)
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine: A. Author, 2030\n initt\n input 1", "unknown column 'initt'"),
        ("mine: A. Author, 2030\n init\n middle 1", "unknown row 'middle'"),
        ("mine: A. Author, 2030\n init\n tied 1", "unknown row 'tied'"),
        ("mine: A. Author, 2030\n init\n input m_inn", "'m_inn' is no product"),
        ("mine\n init\n input 1", "'mine' must be a title 'ABOUT: PAPER, YEAR'"),
        ("init mult\n input 1 1\n hidden 1 1", "must be a title"),
    ],
)
def test_a_table_that_is_wrong_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_table(text)


def test_every_parametrization_says_what_it_is_and_where_it_is_from() -> None:
    rows = parametrizations()
    assert [row["name"] for row in rows] == list(TABLES)
    for row in rows:
        assert row["about"]
        assert row["paper"]
        assert 1990 < row["year"] < 2100
    by_name = {row["name"]: row for row in rows}
    assert by_name["mup"]["paper"] == "Yang et al., Tensor Programs V, Table 8"
    assert by_name["completep"]["year"] == 2025


MINE = """
    half of muP: A. Author, A paper, 2030
             mult    adam.lr  adam.init
    hidden   1       1/m_in   m_in^-1/2
    output   1/m_in  1        1
"""


def test_a_new_parametrization_is_one_entry_of_seven_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its name and the quotes that is 7 lines; all else follows."""
    assert len(MINE.strip().splitlines()) + 3 == 7
    monkeypatch.setitem(TABLES, "mine", MINE)
    assert parametrizations()[-1] == {
        "name": "mine",
        "about": "half of muP",
        "paper": "A. Author, A paper",
        "year": 2030,
    }
    infos = describe(build, 32, 8)
    scales = scale(infos, "mine", "adamw", lr=0.1)
    expected = scale(infos, "mup", "adamw", lr=0.1)
    for name in infos:
        assert (scales[name].mult, scales[name].lr) == (expected[name].mult, expected[name].lr)
        assert scales[name].init == expected[name].init
    model = initialize_(build(32), scales, seed=0)
    assert model.readout.scale.weight_mult == 0.25
    mine = get_parametrization("mine")
    found = expected_exponents(infos, mine, "adam", t=1)
    assert found["update", "layers.1.weight"] == Expected(-1, -1)
    rows = {row["role"]: row for row in table_with_exponents(mine, "adam")}
    assert (rows["hidden"]["lr"], rows["hidden"]["update"]) == ("1/m_in", "-1")
    with pytest.raises(ConfigError, match="mine has no rules for the update kind 'sgd'"):
        mine.table("sgd")


@pytest.mark.parametrize("optimizer", ["adamw", "adam", torch.optim.AdamW, partial(Lion, lr=1)])
def test_the_door_takes_names_and_objects(optimizer: Any) -> None:
    infos = describe(build, 32, 8)
    expected = scale(infos, get_parametrization("mup"), UpdateKind.ADAM, lr=0.1)
    assert scale(infos, "mup", optimizer, lr=0.1) == expected
    assert scale(infos, "mup", optimizer_rules(optimizer), lr=0.1) == expected


class Unknown(torch.optim.Optimizer):
    pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parametrization": 5}, "parametrization=5: must be a mupl.Parametrization or one of sp"),
        ({"parametrization": "mupp"}, "parametrization=mupp: must be one of sp"),
        ({"optimizer": 5}, "optimizer=5: must be one of sgd"),
        ({"optimizer": "adamm"}, "optimizer=adamm: must be one of sgd"),
        ({"optimizer": Unknown}, "optimizer=Unknown: how its updates scale is not known"),
        ({"infos": nn.Linear(2, 2)}, "infos: must be what mupl.describe"),
        ({"infos": {"weight": 3}}, "infos: must be what mupl.describe"),
        ({"lr": "fast"}, "lr=fast: must be a finite number > 0"),
        ({"weight_decay": None}, "weight_decay=None: must be a finite number >= 0"),
    ],
)
def test_wrong_types_at_the_door_are_one_clear_error(arguments: dict, message: str) -> None:
    infos = describe(build, 32, 8)
    right = {"infos": infos, "parametrization": "mup", "optimizer": "adamw", "lr": 0.1}
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        scale(**right | arguments)
    assert "\n" not in str(raised.value)


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


@pytest.mark.parametrize("mode", [*WEIGHT_DECAY_MODES, 0, 0.5, 1])
def test_weight_decay_modes(mode: str | float) -> None:
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
        0: [0.05, 0.05, 0.2],
        0.5: [0.05, 0.05 / 2, 0.2 / 2],
        1: [0.05, 0.05 / 4, 0.2 / 4],
    }
    assert steps == pytest.approx(expected[mode])


@pytest.mark.parametrize("name", ["mup", "mup_table9", "unit_init"])
def test_an_exponent_of_weight_decay_is_that_of_lr_times_it_in_fan_in(name: str) -> None:
    """The p of Fan et al. (1/2) and Qiu et al. (1), in every formulation of muP."""
    scales = numbers_of(name=name, weight_decay=0.5, weight_decay_mode=0.5)
    base = numbers_of(name=name, weight_decay=0.5, width=8)
    falls = {}
    for tensor, after in scales.items():
        before = base[tensor]
        falls[tensor] = after.lr * after.weight_decay / before.lr / before.weight_decay
    matrices = {"layers.0.weight": 1.0, "layers.1.weight": 0.5, "readout.weight": 0.5}
    assert {name: falls[name] for name in matrices} == pytest.approx(matrices)
    assert falls["layers.1.bias"] == pytest.approx(1.0)


def test_an_exponent_of_weight_decay_goes_on_top_of_a_column_of_it() -> None:
    numbers = {}
    for mode in ("decoupled", 0.5):
        infos = describe(lambda w: nn.Linear(w, w), 32, 8)
        scaled = scale(infos, "depth_mup", "adamw", lr=1, weight_decay=1, weight_decay_mode=mode)
        numbers[mode] = scaled["weight"].weight_decay
    assert numbers == pytest.approx({"decoupled": 4.0, 0.5: 2.0})


def test_a_column_of_weight_decay_goes_over_what_follows_from_lr() -> None:
    """Depth-muP has the weight decay of CompleteP's table, m_in, at any depth."""

    def deep(width: int, depth: int) -> nn.Module:
        return GPT(11, 4, width, depth=depth, d_head=4)

    infos = describe(deep, 16, 8, depth=4, base_depth=1)
    numbers = scale(infos, "depth_mup", "adamw", lr=0.1, weight_decay=0.3)
    hidden = numbers["blocks.0.mlp.up.weight"]
    assert hidden.lr == pytest.approx(0.1 / 2 / 2)  # m_L^-1/2 / m_in
    assert hidden.weight_decay == pytest.approx(0.3 * 2)


def test_a_layers_own_learning_rate_multiplies_that_of_the_table() -> None:
    numbers = numbers_of(overrides={"layers.1.weight": {"lr_scale": 3}}, weight_decay=0.6)
    assert numbers["layers.1.weight"].lr == pytest.approx(0.1 / 4 * 3)
    assert numbers["layers.1.weight"].weight_decay == pytest.approx(0.6 * 4 / 3)
    assert numbers["layers.2.weight"].lr == pytest.approx(0.1 / 4)


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
        ({"overrides": {"layer.*": {"lr": 1}}}, "'layer.*' matches none of"),
        ({"overrides": {"layers.*": {"rate": 1}}}, "layers.*.rate: must be one of"),
        ({"overrides": {"layers.*": {"lr": "1/width"}}}, "layers.*.lr: '1/width' is no product"),
        (
            {"overrides": {"layers.1.weight": "1/m_in"}},
            "parametrization.overrides.layers.1.weight: must be {cell: value}, such as "
            "{lr: 1/m_in}",
        ),
        ({"overrides": {"layers.*": {"lr_scale": "m_in"}}}, "lr_scale must be a number"),
        ({"overrides": {"layers.*": {"lr_scale": "alpha"}}}, "lr_scale must be a number"),
        ({"overrides": {"layers.*": {"lr": "1/0"}}}, "layers.*.lr: '1/0' is no product"),
        ({"lr": -1.0}, "lr=-1"),
        ({"lr": math.nan}, "lr=nan"),
        ({"eps": -1.0}, "eps=-1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"weight_decay_mode": "both"}, "weight_decay_mode=both: must be one of coupled, decoupl"),
        ({"weight_decay_mode": -0.5}, "weight_decay_mode=-0.5: must be one of coupled, decoupled"),
        ({"weight_decay_mode": math.inf}, "or a number p >= 0 (lr * wd ~ m_in^-p)"),
        ({"weight_decay_mode": True}, "weight_decay_mode=True: must be"),
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
        numbers = scale(infos, name, "adam", lr=0.1)
        model = initialize_(MLP(64, 10, 512), numbers, torch.Generator().manual_seed(0))
        for tensor, w in parameters(model, numbers).items():
            if tensor.endswith("weight"):
                expected = numbers[tensor].init.std
                assert w.std().item() == pytest.approx(expected, rel=0.05), (name, tensor)
        # The std of hidden W = mult * w is 1/sqrt(fan_in) in every table; the readout's is
        # as SP or as muP says.
        hidden, readout = (
            numbers[n].mult * numbers[n].init.std for n in ("layers.1.weight", "readout.weight")
        )
        assert hidden == pytest.approx(512**-0.5)
        assert readout == pytest.approx(512**-0.5 if name in OF_SP_CLASS else 64**-0.5 / 8)


def test_applying_twice_is_applying_once() -> None:
    model = nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3))
    other = copy.deepcopy(model)
    names = {"0.weight", "0.bias", "1.weight", "1.bias"}
    infos = describe(lambda w: nn.Sequential(nn.Linear(6, w), nn.Linear(w, 3)), 32, 8)
    first, second = (scale(infos, p, "adam", lr=0.1) for p in ("unit_init", "mup"))
    initialize_(model, first)
    initialize_(model, second)
    once = initialize_(other, second)
    x = torch.randn(4, 6)
    torch.testing.assert_close(model(x), once(x))
    expected = once(x)
    assert torch.equal(initialize_(once, second)(x), expected)
    assert set(parameters(model, second)) == names


@pytest.mark.parametrize("given", [{}, {"seed": 0, "generator": torch.Generator()}])
def test_the_seed_of_what_is_drawn_is_given_once(given: dict) -> None:
    init = {"readout.weight": {"name": "normal", "std": 0.1}}
    numbers = scale(describe(build, 32, 8, init=init), "mup", "adam", lr=0.1)
    with pytest.raises(ConfigError, match="give a seed or a generator, one of them"):
        initialize_(build(32), numbers, **given)


def test_a_model_shows_the_multipliers_that_it_has() -> None:
    infos = describe(lambda w: nn.Sequential(nn.Linear(6, w), nn.Linear(w, 3)), 32, 8)
    model = nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3))
    assert "ScaledParameter(mult=0.25, grad=1)" in repr(
        initialize_(model, scale(infos, "mup", "adam", lr=0.1), seed=0)
    )
    assert repr(Residual(0.5)) == "Residual(residual, value=0.5)"
    ours = repr(initialize_(build(32), numbers_of(), seed=0).readout)
    assert "(weight_scale): ScaledParameter(mult=0.25, grad=1)" in ours
    assert "readout=True" in repr(UnitLinear(2, 2, readout=True))


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
        expected = numbers[name]
        assert group["lr"] == expected.lr
        assert group["eps"] == expected.eps
        assert group["weight_decay"] == expected.weight_decay
    assert len(groups) == 2  # hidden weights, and the rest


def test_the_printed_table_is_the_table_of_rules() -> None:
    rows = get_parametrization("mup").table("adam")
    assert rows[1] == {
        "role": "hidden",
        "mult": "1",
        "init": "m_in^-1/2",
        "lr": "1/m_in",
        "eps": "1/m_out",
        "grad": "1",
        "wd": "m_in",  # that lr * wd does not change
    }
    assert rows[-2]["role"] == "attention"
    assert (rows[-2]["mult"], rows[-2]["lr"]) == ("1/m_in", "")  # a number is not trained
    assert get_parametrization("depth_mup").table("adam")[0]["wd"] == "1"
    table = rich_table(rows)
    assert (table.row_count, len(table.columns)) == (len(Role) + 3, 2 + len(CELLS))
    special = {row["role"] for row in get_parametrization("umup").table("adam")} & {*SPECIAL_ROWS}
    assert special == {"input_embedding", "input_vector"}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("update_kind", UpdateKind)
def test_the_printed_exponents_are_those_of_a_check(
    name: str, update_kind: str, infos: Infos
) -> None:
    parametrization = get_parametrization(name)
    if update_kind not in parametrization.update_kinds:
        return
    rows = {row["role"]: row for row in table_with_exponents(parametrization, update_kind)}
    found = expected_exponents(infos, parametrization, update_kind, t=0)
    tensors = {"input": "layers.0", "hidden": "layers.1", "output": "readout"}
    for role, layer in tensors.items():
        for kind, column in (("param", "W"), ("update", "update")):
            expected = found[kind, f"{layer}.weight"]
            low, _, high = rows[role][column].partition("..")
            assert float(Fraction(low)) == expected.low, (role, column)
            assert float(Fraction(high or low)) == expected.high, (role, column)


def test_entries_of_an_orthogonal_update_shrink_with_each_dimension_that_grows() -> None:
    """Singular values 1 and a fixed rank make a Frobenius norm of order 1 of n or n^2 entries."""
    rows = {
        row["role"]: row for row in table_with_exponents(get_parametrization("sp"), "orthogonal")
    }
    assert [rows[role]["update"] for role in ("input", "hidden", "scalar")] == ["-1/2", "-1", "0"]


@pytest.mark.parametrize("along", ["widht", "Depth", None])
def test_exponents_are_in_width_or_in_depth(along: Any) -> None:
    infos = describe(build, 32, 8)
    with pytest.raises(ConfigError, match=f"along={along}: must be width or depth"):
        expected_exponents(infos, get_parametrization("mup"), "adam", t=0, along=along)


def test_rows_of_embeddings_and_vectors_fall_back_on_their_roles() -> None:
    assert set(SPECIAL_ROWS) < set(ROWS)
    mup, umup = get_parametrization("mup"), get_parametrization("umup")
    for row, role in SPECIAL_ROWS.items():
        assert mup.rule("adam", row) == mup.rule("adam", role)
    assert umup.rule("adam", "input_vector") != umup.rule("adam", "input")
    infos = describe(lambda w: nn.Sequential(nn.Embedding(5, w), nn.Linear(w, 3)), 8, 4)
    assert infos["0.weight"].row == "input_embedding"
    assert infos["1.bias"].row == "scalar_vector"
    assert infos["1.weight"].row == "output"


def test_the_table_of_a_model_says_what_starts_constant() -> None:
    infos = describe(lambda w: nn.Sequential(nn.Linear(6, w), nn.LayerNorm(w)), 32, 8)
    scales = scale(infos, "mup", "adam", lr=0.1)
    rows = {row["name"]: row for row in scale_rows(infos, scales)}
    assert rows["1.weight"]["init"] == "const 1"
    assert rows["1.bias"]["init"] == "const 0"
    assert rows["0.weight"]["init"] == "uniform"
    assert rows["0.weight"]["init_std"] == pytest.approx(18**-0.5)


def test_a_constant_tensor_keeps_its_effective_value_under_a_multiplier() -> None:
    def norm(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, width), nn.LayerNorm(width))

    infos = describe(norm, 32, 8)
    assert infos["1.weight"].init == Initializer("constant", 1.0)
    for name in (
        name for name in TABLES if name != "umup_output_scale"
    ):  # it has no rules for Adam
        model = initialize_(norm(32), scale(infos, name, "adam", lr=0.1), seed=0)
        torch.testing.assert_close(effective(model[1], "weight"), torch.ones(32))
