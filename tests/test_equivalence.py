"""The formulations of muP are one training trajectory, and every wrong rule is seen."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.nn.mulinear import MuLinear
from mupl.parametrization.cells import Monomial
from mupl.parametrization.rules import get_parametrization
from mupl.parametrization.scales import Scale
from mupl.parametrization.symmetry import shift
from mupl.parametrization.tables import TABLES
from mupl.roles import Role
from tests.loop import (
    BASE,
    HYPERPARAMETERS,
    MATRIX_EPS,
    OPTIMIZERS,
    batches,
    build_mlp,
    prepare,
    train,
    trajectory,
)

close = partial(torch.testing.assert_close, atol=1e-12, rtol=0)


def apart(*trajectories: Tensor) -> float:
    """The largest difference of two."""
    return torch.sub(*trajectories).abs().max().item()


class Tanh(nn.Module):
    """The MLP of the other tests from any layers."""

    def __init__(self, layers: Sequence[nn.Module], readout: nn.Module) -> None:
        super().__init__()
        self.layers, self.readout = nn.ModuleList(layers), readout

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.readout(x)


MUP = ["mup", "mup_table3", "mup_table9", "unit_init", "mulinear", "mean_field"]
CASES = [(p, o) for o in ("sgd", "adamw") for p in MUP] + [("cerebras", "adamw")]


@pytest.mark.parametrize("multiplier", [3, 4])
@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_formulations_of_mup_follow_one_trajectory(
    name: str, optimizer: str, multiplier: int
) -> None:
    width = BASE * multiplier
    reference = trajectory("mup", optimizer, width)
    assert reference[-1] < 0.9 * reference[0]  # it trains
    close(trajectory(name, optimizer, width), reference)


NEW = ["lion", "sign_sgd", "adam_atan2", "shampoo_svd", "shampoo"]


@pytest.mark.parametrize("name", ["mup_table3", "mup_table9", "unit_init", "mean_field"])
@pytest.mark.parametrize("optimizer", NEW)
def test_formulations_of_mup_follow_one_trajectory_under_other_optimizers(
    name: str, optimizer: str
) -> None:
    reference = trajectory("mup", optimizer, 3 * BASE)
    assert reference[-1] < 0.9 * reference[0]
    close(trajectory(name, optimizer, 3 * BASE), reference, atol=1e-10)
    assert apart(trajectory("sp", optimizer, 3 * BASE), reference) > 1e-3


@pytest.mark.parametrize("name", ["mup_table3", "mup_table9"])
def test_formulations_of_mup_follow_one_trajectory_under_soap(name: str) -> None:
    """Factors are powers of two, as rounding decides SOAP's eigenvectors of eigenvalue 0."""
    reference = trajectory("mup", "soap", 4 * BASE)
    assert reference[-1] < 0.9 * reference[0]
    close(trajectory(name, "soap", 4 * BASE), reference, atol=1e-10)


def test_mulinear_equals_cerebras_to_the_last_bit_at_a_power_of_two() -> None:
    assert torch.equal(
        trajectory("mulinear", "adamw", 4 * BASE), trajectory("cerebras", "adamw", 4 * BASE)
    )


# of each formulation tensors whose eps, weight decay and lr it scales
SCALED = {
    "mup": ("layers.1.weight", "layers.1.weight", "layers.1.weight"),
    "mup_table3": ("layers.0.bias", "readout.weight", "readout.weight"),
    "mup_table9": ("readout.weight", "layers.0.weight", "layers.0.bias"),
    "unit_init": ("layers.0.weight", "layers.2.weight", "readout.weight"),
    "cerebras": ("readout.weight", "layers.2.weight", "layers.2.weight"),
    "mean_field": ("layers.1.weight", "layers.1.weight", "layers.1.weight"),
}
FIELDS = ("eps", "weight_decay", "lr")
CONTROLS = [
    (name, "adamw", *pair)
    for name, tensors in SCALED.items()
    for pair in zip(FIELDS, tensors, strict=True)
]
CONTROLS += [
    ("mup_table3", o, field, "readout.weight")
    for o in (*NEW, "soap")
    for field in ("lr", "weight_decay")
]
GRADED = ("layers.0.weight", "layers.1.weight", "layers.1.bias", "readout.weight")
CONTROLS += [("mulinear", "adamw", "grad", tensor) for tensor in GRADED]
CONTROLS += [
    ("mup", "shampoo", "matrix_eps", name) for name in ("layers.0.weight", "layers.1.bias")
]
CONTROLS += [("mup_table3", "shampoo", "matrix_eps", "readout.weight")]


@pytest.mark.parametrize(("name", "optimizer", "field", "tensor"), CONTROLS)
def test_dropping_one_rule_is_seen(name: str, optimizer: str, field: str, tensor: str) -> None:
    """The tensor gets the value that it has at the base width."""
    base = (HYPERPARAMETERS[optimizer] | {"grad": 1.0, "matrix_eps": MATRIX_EPS})[field]

    def edit(numbers: Mapping[str, Scale]) -> Mapping[str, Scale]:
        return {**numbers, tensor: replace(numbers[tensor], **{field: base})}

    spoilt = trajectory(name, optimizer, 4 * BASE, edit=edit)
    assert apart(spoilt, trajectory("mup", optimizer, 4 * BASE)) > 1e-8


ONE_FAMILY = (("cerebras", "sgd"), ("umup_output_scale", "adamw"))  # which these have no rules for
ALL = [(name, o) for name in TABLES for o in ("sgd", "adamw") if (name, o) not in ONE_FAMILY]


@pytest.mark.parametrize(
    ("name", "optimizer"), [case for case in ALL if not case[0].startswith("umup")]
)
def test_at_the_base_width_every_parametrization_is_the_standard_one(
    name: str, optimizer: str
) -> None:
    reference = trajectory("sp", optimizer, BASE)
    close(trajectory(name, optimizer, BASE), reference)


@pytest.mark.parametrize("name", ["sp", "ntk", "sp_full_align", "ntk_full_align"])
def test_the_sp_class_leaves_mup_away_from_the_base_width(name: str) -> None:
    assert apart(trajectory(name, "adamw", 4 * BASE), trajectory("mup", "adamw", 4 * BASE)) > 1e-3


THETA = {
    Role.INPUT: "3*m_out^1/3",
    Role.HIDDEN: "m_in^-1/2*sigma",
    Role.OUTPUT: 0.3,
    Role.SCALAR: 2,
}


@pytest.mark.parametrize(("name", "optimizer"), ALL)
def test_a_shift_by_any_theta_changes_no_trajectory(name: str, optimizer: str) -> None:
    update_kind = "sgd" if optimizer == "sgd" else "adam"
    # The symmetry holds for any model; under its own name u-muP is refused for this one under SGD
    rules = replace(get_parametrization(name), name="rules")
    moved = shift(rules, THETA, (update_kind,))
    reference = trajectory(rules, optimizer, 3 * BASE)
    close(trajectory(moved, optimizer, 3 * BASE), reference)


def test_a_shift_takes_names_or_objects() -> None:
    expected = shift(get_parametrization("mup"), {Role.OUTPUT: "m_in"}, ("adam",))
    assert shift("mup", {"output": "m_in"}, "adam") == expected
    assert shift("mup", {"output": Monomial.parse("m_in")}, ["adam"]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mupp", {}, "adam"), "parametrization=mupp: must be one of sp"),
        (("mup", {"readout": 2}, "adam"), "theta.readout: must be theta of one of input, hidden"),
        (("mup", {"output": "1/width"}, "adam"), "theta.output: '1/width' is no product"),
        (("mup", {"output": 0}, "adam"), "theta.output=0: must not be 0"),
        (("sp", {}, "adamw"), "update_kinds=adamw: must be among sgd, adam, orthogonal"),
        (("cerebras", {}, "sgd"), "cerebras has no rules for the update kind 'sgd'"),
    ],
)
def test_a_wrong_shift_is_one_clear_error(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        shift(*arguments)


@pytest.mark.parametrize("optimizer", [*NEW, "soap"])
def test_a_shift_by_any_theta_changes_no_trajectory_under_other_optimizers(optimizer: str) -> None:
    exact = {Role.INPUT: "2*m_out", Role.HIDDEN: "m_in^-1/2", Role.OUTPUT: 0.25, Role.SCALAR: 8}
    moved = shift(
        get_parametrization("mup"), exact if optimizer == "soap" else THETA, ("adam", "orthogonal")
    )
    reference = trajectory("mup", optimizer, 4 * BASE)
    close(trajectory(moved, optimizer, 4 * BASE), reference, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        ("mup_table3", {Role.OUTPUT: "m_in"}),
        ("mup_table9", {Role.INPUT: "m_out^1/2", Role.OUTPUT: "m_in^1/2"}),
        ("unit_init", {Role.INPUT: "sigma", Role.HIDDEN: "sigma*m_in^-1/2", Role.OUTPUT: "sigma"}),
        ("mean_field", {Role.HIDDEN: "m_in^-1/2"}),
    ],
)
@pytest.mark.parametrize("update_kind", ["sgd", "adam", "orthogonal"])
def test_the_literal_tables_are_shifts_of_table_8(
    name: str, theta: dict[Role, str], update_kind: str
) -> None:
    moved = shift(get_parametrization("mup"), theta, (update_kind,))
    for role in Role:
        assert moved.rule(update_kind, role) == get_parametrization(name).rule(update_kind, role), (
            role
        )


@pytest.mark.parametrize("update_kind", ["sgd", "adam"])
def test_mulinear_layers_alone_with_one_group_are_the_mulinear_table(update_kind: str) -> None:
    optimizer = "sgd" if update_kind == "sgd" else "adamw"
    width = 3 * BASE
    model, _ = prepare("mulinear", optimizer, width)

    options = {"base_width": BASE, "update_kind": update_kind}
    hidden = [MuLinear(width, width, role="hidden", **options) for _ in range(2)]
    readout = MuLinear(width, 3, role="output", **options)
    net = Tanh([MuLinear(6, width, role="input", **options), *hidden], readout).double()
    for name, parameter in net.named_parameters():  # drawn from the distribution of the table
        if name.endswith("weight"):
            expected = model.get_parameter(name).std()
            torch.testing.assert_close(parameter.std(), expected, rtol=0.35, atol=0)
    net.load_state_dict(model.state_dict())
    stock = OPTIMIZERS[optimizer](net.parameters(), **HYPERPARAMETERS[optimizer])
    close(train(net, stock, 30), trajectory("mup", optimizer, width, steps=30))


@pytest.mark.filterwarnings("ignore:eps=0")  # the powers of alpha hold for lr alone
@pytest.mark.parametrize(("update_kind", "power"), [("sgd", 1.0), ("adam", 0.5)])
def test_lr_scale_of_mulinear_is_a_learning_rate_of_its_own(update_kind: str, power: float) -> None:
    optimizer = "sgd" if update_kind == "sgd" else "adamw"
    alpha = 4.0
    scaled = get_parametrization("mulinear", {"layers.1.weight": {"lr_scale": alpha}})
    cell = {"sgd": "m_out/m_in", "adam": "1/m_in"}[update_kind]
    by_group = get_parametrization("mup", {"layers.1.weight": {"lr": f"{alpha**power}*{cell}"}})
    plain = {"weight_decay": 0.0} | ({"eps": 0.0} if update_kind == "adam" else {})
    close(
        trajectory(scaled, optimizer, 2 * BASE, **plain),
        trajectory(by_group, optimizer, 2 * BASE, **plain),
    )


def test_a_foreign_module_follows_the_same_trajectory() -> None:
    def plain(width: int) -> nn.Module:
        net = Tanh([nn.Linear(n, width) for n in (6, width, width)], nn.Linear(width, 3))
        for layer in (*net.layers, net.readout):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        return net

    for name in MUP:
        ours, theirs = (
            trajectory(name, "adamw", 3 * BASE, build=build) for build in (build_mlp, plain)
        )
        close(theirs, ours)


def test_heterogeneous_widths_equal_a_single_width_when_all_are_alike() -> None:
    listed = trajectory("mup", "adamw", [3 * BASE] * 3, steps=20)
    assert torch.equal(listed, trajectory("mup", "adamw", 3 * BASE, steps=20))


def test_batches_differ() -> None:
    (first, _), (second, _) = batches(2)
    assert not torch.equal(first, second)
