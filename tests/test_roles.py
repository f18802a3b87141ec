"""Roles and fans are found from shapes, initializers from what the constructor does."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mupl.cli import main
from mupl.errors import ConfigError
from mupl.initializers import (
    Initializer,
    build_on_meta,
    build_watched,
    create_initializer,
    on_meta,
    scale_initializers_by_dimension,
)
from mupl.models import MLP
from mupl.nn.multipliers import Multiplier, Residual
from mupl.roles import MultiplierInfo, MultiplierRole, Role, describe, multipliers
from mupl.training.setup import Setup


class Zoo(nn.Module):
    """One of each kind of layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width, padding_idx=0)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 1)
        self.stem = nn.Conv2d(3, width, 3)
        self.conv = nn.Conv2d(width, 2 * width, 5)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.up = nn.ConvTranspose2d(width, 4, 3)
        self.lstm = nn.LSTM(5, width)
        self.small = nn.Linear(3, 3)
        self.head = nn.Linear(width, 10)
        self.temperature = nn.Parameter(torch.ones(()))


# name: role, fan_in, fan_out, m_in, m_out at width 12 and base width 4
EXPECTED = {
    "embedding.weight": (Role.INPUT, 11, 12, 1, 3),
    "norm.weight": (Role.INPUT, 1, 12, 1, 3),
    "norm.bias": (Role.INPUT, 1, 12, 1, 3),
    "attention.in_proj_weight": (Role.HIDDEN, 12, 36, 3, 3),
    "attention.out_proj.weight": (Role.HIDDEN, 12, 12, 3, 3),
    "stem.weight": (Role.INPUT, 27, 12, 1, 3),
    "conv.weight": (Role.HIDDEN, 300, 24, 3, 3),
    "conv.bias": (Role.INPUT, 1, 24, 1, 3),
    "depthwise.weight": (Role.INPUT, 9, 12, 1, 3),
    "up.weight": (Role.OUTPUT, 108, 4, 3, 1),
    "lstm.weight_ih_l0": (Role.INPUT, 5, 48, 1, 3),
    "lstm.weight_hh_l0": (Role.HIDDEN, 12, 48, 3, 3),
    "small.weight": (Role.SCALAR, 3, 3, 1, 1),
    "small.bias": (Role.SCALAR, 1, 3, 1, 1),
    "head.weight": (Role.OUTPUT, 12, 10, 3, 1),
    "head.bias": (Role.SCALAR, 1, 10, 1, 1),
    "temperature": (Role.SCALAR, 1, 1, 1, 1),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_roles_and_fans_follow_from_shapes(name: str) -> None:
    info = describe(Zoo, 12, 4)[name]
    assert (info.role, info.fan_in, info.fan_out, info.m_in, info.m_out) == EXPECTED[name]


def test_roles_do_not_need_the_width_to_differ_from_the_base() -> None:
    at_base, wider = describe(Zoo, 4, 4), describe(Zoo, 12, 4)
    assert {n: i.role for n, i in at_base.items()} == {n: i.role for n, i in wider.items()}
    assert all(i.m_in == i.symbols["m_out"] == 1 for i in at_base.values())


def test_heterogeneous_widths_with_absolute_rules() -> None:
    infos = describe(lambda w: MLP(7, 3, w), [8, 16, 64], base_width=1)
    assert [(i.m_in, i.m_out) for n, i in infos.items() if n.endswith("weight")] == [
        (1, 8),
        (8, 16),
        (16, 64),
        (64, 1),
    ]


class Experts(nn.Module):
    """Tensors of three and four dimensions, and a matrix that is no layer's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.randn(3, 4 * width, width))
        self.down = nn.Parameter(torch.randn(3, width, 2 * width))
        self.kernel = nn.Parameter(torch.randn(width, 2 * width, 3, 3))
        self.square = nn.Parameter(torch.randn(width, width))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))


def test_dimensions_before_a_matrix_that_do_not_grow_are_a_batch_of_matrices() -> None:
    infos = describe(Experts, 32, 8)
    found = {name: (i.role, i.fan_in, i.fan_out, i.m_in, i.m_out) for name, i in infos.items()}
    assert found == {
        "gate_up": (Role.HIDDEN, 32, 128, 4, 4),
        "down": (Role.HIDDEN, 64, 32, 4, 4),
        "kernel": (Role.HIDDEN, 64 * 9, 32, 4, 4),
        "square": (Role.HIDDEN, 32, 32, 4, 4),
        "token": (Role.INPUT, 1, 32, 1, 4),
        "layer_scale": (Role.INPUT, 1, 32, 1, 4),
    }
    given = describe(Experts, 32, 8, roles={"gate_up": "hidden"})["gate_up"]
    assert given == infos["gate_up"]


class LowRank(nn.Linear):
    """A linear layer with an update of rank 2."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.A = nn.Parameter(torch.randn(width, 2))
        self.B = nn.Parameter(torch.zeros(2, width))


def test_other_tensors_of_a_layer_do_not_take_the_orientation_of_its_weight() -> None:
    with pytest.raises(ConfigError) as caught:
        describe(LowRank, 8, 4)
    assert str(caught.value) == (
        "parameter 'A' of shape (8, 2) in a LowRank; 'B' of shape (2, 8) in a LowRank: cannot be "
        "classified by its shape; if it is what names and shapes suggest, say "
        "roles={'A': 'output', 'B': 'input'} (else input, hidden, output or scalar)"
    )
    infos = describe(LowRank, 8, 4, roles={"A": "output", "B": "input"})
    assert (infos["A"].m_in, infos["A"].m_out) == (2, 1)
    assert (infos["B"].m_in, infos["B"].m_out) == (1, 2)
    assert infos["weight"].role is Role.HIDDEN
    attention = describe(lambda w: nn.MultiheadAttention(w, 1, add_bias_kv=True), 8, 4)
    assert attention["bias_k"].role is Role.INPUT
    assert (attention["bias_k"].fan_in, attention["bias_k"].fan_out) == (1, 8)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (lambda w: w, (Role.INPUT, 9, 32, 1, 4)),  # depthwise
        (lambda w: 2, (Role.HIDDEN, 16 * 9, 32, 4, 4)),
        (lambda w: w // 4, (Role.INPUT, 4 * 9, 32, 1, 4)),
    ],
)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_fans_of_grouped_convolutions(kind: Any, groups: Any, expected: tuple) -> None:
    info = describe(lambda w: kind(w, w, 3, groups=groups(w)), 32, 8)["weight"]
    assert (info.role, info.fan_in, info.fan_out, info.m_in, info.m_out) == expected


def rounded(width: int, multiple: int) -> nn.Module:
    hidden = -(-3 * width // multiple) * multiple
    return nn.Sequential(nn.Linear(width, hidden), nn.Linear(hidden, width))


def test_a_dimension_that_is_rounded_grows_if_any_two_widths_tell_it_apart() -> None:
    infos = describe(lambda w: rounded(w, 256), 1024, 32)
    assert [infos[f"{i}.weight"].role for i in range(2)] == [Role.HIDDEN, Role.HIDDEN]
    assert (infos["0.weight"].m_in, infos["0.weight"].m_out) == (32, 12)
    assert infos["0.bias"].role is Role.INPUT


class Positions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(9, width) * 0.02)
        self.query = nn.Linear(width, width)


def test_a_tensor_that_cannot_be_classified_is_named_and_can_be_given_a_role() -> None:
    with pytest.raises(ConfigError, match=r"'positions' of shape \(9, 8\).*roles="):
        describe(Positions, 8, 4)
    info = describe(Positions, 8, 4, roles={"pos*": "input"})["positions"]
    assert (info.role, info.fan_in, info.fan_out, info.m_out) == (Role.INPUT, 9, 8, 2)
    assert info.init == Initializer("normal", 0.0, 0.02)


@pytest.mark.parametrize("role", ["hidden", "output", "scalar"])
def test_every_role_can_be_given_to_a_tensor_that_shapes_cannot_classify(role: str) -> None:
    info = describe(Positions, 8, 4, roles={"positions": role})["positions"]
    assert (info.role, info.fan_in, info.fan_out) == (role, 8, 9)


def test_an_unknown_role_is_named() -> None:
    with pytest.raises(
        ConfigError, match="roles=inptu: must be one of input, hidden, output, scalar"
    ):
        describe(Positions, 8, 4, roles={"positions": "inptu"})


def test_of_overlapping_globs_the_later_one_wins() -> None:
    roles = {"*": "hidden", "query.*": "input"}
    assert describe(Positions, 8, 4, roles=roles)["query.bias"].role is Role.INPUT
    assert describe(Positions, 8, 4, roles=roles)["positions"].role is Role.HIDDEN


def test_a_role_that_is_given_wins_over_the_shape() -> None:
    info = describe(lambda w: nn.Linear(5, w), 8, 4, roles={"bias": "hidden"})["bias"]
    assert (info.role, info.m_in, info.m_out) == (Role.HIDDEN, 2, 2)


@pytest.mark.parametrize("key", ["roles", "init"])
def test_a_glob_that_matches_nothing_is_an_error(key: str) -> None:
    value = {"roles": "input", "init": {"name": "normal", "std": 1}}[key]
    with pytest.raises(ConfigError, match=rf"{key}: 'wieght' matches none of"):
        describe(lambda w: nn.Linear(w, w), 8, 4, **{key: {"wieght": value}})


def test_a_model_whose_tensors_change_with_width_is_refused() -> None:
    class Grows(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(width))

    with pytest.raises(
        ConfigError, match=r"'layers\.4\.weight' is not the same tensor at every width"
    ):
        describe(Grows, 8, 4)


def fill_truncated(weight: torch.Tensor) -> None:
    nn.init.trunc_normal_(weight, std=0.5, a=-1.0, b=1.0)


FILLS = {
    "kaiming_uniform": (
        lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
        Initializer("uniform", 0.0, 48**-0.5),
    ),
    "xavier_normal": (nn.init.xavier_normal_, Initializer("normal", 0.0, 0.25)),
    "data_normal": (lambda w: w.data.normal_(mean=0.0, std=0.02), Initializer("normal", 0.0, 0.02)),
    "scaled": (lambda w: w.data.normal_().mul_(0.3).div_(3), Initializer("normal", 0.0, 0.1)),
    "truncated": (fill_truncated, Initializer("truncated_normal", 0.0, 0.5, -1.0, 1.0)),
    "copied": (lambda w: w.data.copy_(torch.randn(w.shape)), Initializer("normal", 0.0, 1.0)),
    "zero": (nn.init.zeros_, Initializer("constant", 0.0)),
    "value": (lambda w: nn.init.constant_(w, 0.7), Initializer("constant", 0.7)),
    "orthogonal": (nn.init.orthogonal_, None),
    "eye": (nn.init.eye_, None),
}


@pytest.mark.parametrize("fill", FILLS)
def test_what_a_module_draws_from_is_known_exactly(fill: str) -> None:
    function, expected = FILLS[fill]

    def build() -> nn.Module:
        layer = nn.Linear(16, 16)
        function(layer.weight)
        return layer

    _, fills = build_watched(build)
    found = {name: filled.initializer for name, filled in fills.items()}
    if expected is None:
        assert found["weight"] is None
        return
    assert found["weight"] is not None
    assert found["weight"].name == expected.name
    for field in ("mean", "std", "a", "b"):
        assert getattr(found["weight"], field) == pytest.approx(getattr(expected, field)), field


def test_other_values_are_the_models_own_until_a_distribution_is_given() -> None:
    def build(width: int) -> nn.Module:
        layer = nn.Linear(width, width)
        nn.init.orthogonal_(layer.weight)
        return layer

    info = describe(build, 8, 4)["weight"]
    assert info.own is not None
    assert (info.init.name, info.init.std) == ("own", pytest.approx(0.5))
    drawn = describe(build, 8, 4, init={"weight": {"name": "normal", "std": 0.5}})["weight"]
    assert (drawn.init, drawn.own) == (Initializer("normal", 0.0, 0.5), None)
    with pytest.raises(ConfigError, match=r"init\.name=own: must be one of normal"):
        describe(build, 8, 4, init={"weight": {"name": "own"}})
    with pytest.raises(ConfigError, match="keep: 'weight' is drawn by init; say one of them"):
        describe(build, 8, 4, init={"weight": {"name": "normal", "std": 0.5}}, keep=["weight"])


def test_the_base_width_is_never_a_default() -> None:
    with pytest.raises(ConfigError, match="base_width=None: must be a whole number"):
        describe(Zoo, 12)


@pytest.mark.parametrize("key", ["width", "base_width"])
@pytest.mark.parametrize(
    "value", [0, -8, "abc", "8", 64.0, True, None, [8, 0], [8, 4.0], nn.Linear]
)
def test_a_width_that_is_no_whole_number_is_named(key: str, value: Any) -> None:
    widths = {"width": 8, "base_width": 4} | {key: value}
    with pytest.raises(ConfigError) as caught:
        describe(lambda w: nn.Linear(6, w), **widths)
    expected = f"{key}={value}: must be a whole number >= 1, or a list of them"
    assert str(caught.value) == expected


def test_widths_may_be_any_whole_numbers_or_sequences_of_them() -> None:
    expected = describe(lambda w: MLP(7, 3, w), [8, 16], 4)
    assert describe(lambda w: MLP(7, 3, w), (8, 16), (4, 4)) == expected
    assert describe(lambda w: MLP(7, 3, w), [8, 16], np.int64(4)) == expected


@pytest.mark.parametrize(
    ("build", "kind"),
    [(nn.Linear(3, 3), "Linear; to describe a model itself say base="), (None, "NoneType")],
)
def test_a_module_in_place_of_a_function_is_named(build: Any, kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        describe(build, 8, 4)
    assert str(caught.value) == f"build: must be a function width -> nn.Module, not a {kind}"


def test_multipliers_are_described_beside_the_tensors() -> None:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.scale = Multiplier("attention", value=width**-0.5, fan_in=width)
            self.residual = Residual(0.5)
            self.readout = nn.Linear(width, 3)

    infos = describe(Model, 8, 4)
    assert list(infos) == ["readout.weight", "readout.bias", "scale", "residual"]
    assert infos["scale"] == MultiplierInfo(MultiplierRole.ATTENTION, 0.5, 8, 2.0, grows=True)
    assert infos["residual"] == MultiplierInfo(MultiplierRole.RESIDUAL, 0.5, 1, 1.0, grows=False)
    assert list(multipliers(Model(4))) == ["scale", "residual"]
    with pytest.raises(ValueError, match="hidden"):
        Multiplier("hidden")


def test_a_multiplier_that_is_not_there_at_every_width_is_named() -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, width), Residual() if width > 4 else nn.Identity())

    with pytest.raises(ConfigError, match="module '1' is not there at every width"):
        describe(build, 8, 4)


def test_tensors_that_name_their_device_are_filled() -> None:
    """Else `trunc_normal_` would redraw memory that nobody has filled, perhaps for ever."""
    with on_meta():
        weight = torch.full((8,), torch.nan, device="cpu")
        nn.init.normal_(weight)
        assert nn.Linear(2, 2).weight.is_meta
    assert weight.isfinite().all()

    def build(width: int) -> nn.Module:
        layer = nn.Linear(4, width, device="cpu")
        nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
        return layer

    assert describe(build, 64, 8)["weight"].init.name == "truncated_normal"


def test_describing_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    describe(Zoo, 8, 4)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "normal", "std": 0.4},
        {"name": "truncated_normal", "std": 0.4, "a": -0.8, "b": 0.8},
        {"name": "uniform", "std": 0.4},
        {"name": "constant", "mean": 0.4},
    ],
)
def test_a_scaled_initializer_draws_scaled_tensors(spec: dict) -> None:
    initializer = create_initializer(spec)
    (scaled,) = scale_initializers_by_dimension([initializer], width_scale=0.5, depth_scale=0.25)
    draws = [
        i(torch.empty(200, 200), torch.Generator().manual_seed(0)) for i in (initializer, scaled)
    ]
    torch.testing.assert_close(draws[1], draws[0] / 8)
    if spec["name"] == "truncated_normal":
        of_a_normal_cut_at_two_sigma = 0.4 * 0.8796
        assert draws[0].abs().max() <= 0.8
        assert draws[0].std() == pytest.approx(of_a_normal_cut_at_two_sigma, rel=0.01)
    elif spec["name"] != "constant":
        assert draws[0].std() == pytest.approx(0.4, rel=0.01)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "cauchy"},
        {"name": "normal", "std": "wide"},
        {"std": 1},
        {"name": "normal", "sdt": 1},
        {"name": "normal", "std": -1},
        {"name": "truncated_normal", "std": 1, "a": 1, "b": 0},
    ],
)
def test_a_bad_initializer_is_one_clear_error(spec: dict) -> None:
    with pytest.raises(ConfigError, match="init"):
        create_initializer(spec)


class DropPath(nn.Module):
    """Reads values of a tensor in its constructor, as many models do for stochastic depth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rates = [x.item() for x in torch.linspace(0, 0.1, 3)]
        self.layer = nn.Linear(width, width)


class ReadsWeights(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.largest = self.weight.detach().numpy().max()


@pytest.mark.parametrize("build", [DropPath, lambda w: nn.Linear(6, w)])
def test_the_model_is_described_without_memory_for_its_parameters(build: Any) -> None:
    model, _, on_meta = build_on_meta(lambda: build(8))
    assert on_meta
    assert all(parameter.is_meta for parameter in model.parameters())
    assert nn.Linear(2, 2).weight.device.type == "cpu"  # afterwards all is as before


def test_a_constructor_that_reads_parameters_is_told() -> None:
    infos = describe(ReadsWeights, 8, 4)
    (warning,) = infos.warnings
    assert warning.startswith("build: the constructor reads values of parameters")
    with pytest.warns(UserWarning, match="reads values of parameters"):
        setup = Setup(ReadsWeights, 8, base_width=4, lr=0.1)
    assert setup.warnings == infos.warnings


def test_the_command_tells_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--width", "8", "--base-width", "4"]
    with pytest.raises(SystemExit) as ended:
        main(["describe", f"{__name__}:ReadsWeights", *sizes])
    assert ended.value.code is None
    assert "warning: build: the constructor reads" in capsys.readouterr().err


def test_heads_that_grow_get_a_multiplier() -> None:
    def heads(count: Any) -> Any:
        return describe(lambda w: nn.MultiheadAttention(w, count(w)), 16, 4)

    assert "attention_scale" not in heads(lambda w: w // 4)
    found = heads(lambda w: 2)
    assert found["attention_scale"].m_in == 4
    assert found.warnings == []


def test_a_table_with_rules_in_depth_tells_that_there_are_no_residual_branches() -> None:
    def build(width: int, depth: int) -> nn.Module:
        return nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))

    with pytest.warns(UserWarning, match=r"completep: the model has no .*Residual"):
        Setup(build, 8, base_width=4, depth=2, base_depth=1, parametrization="completep", lr=0.1)
    same = Setup(build, 8, base_width=4, depth=2, base_depth=2, parametrization="completep", lr=0.1)
    assert same.warnings == []
