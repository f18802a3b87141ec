"""The formulations of muP are one training trajectory, and a test that could not see a wrong rule would not count."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from loop import BASE, HYPERPARAMETERS, batches, build_mlp, prepare, train, trajectory
from torch import nn

from mupl.parametrization.mulinear import MuLinear
from mupl.parametrization.rules import Scale, get_parametrization
from mupl.parametrization.symmetry import shift
from mupl.parametrization.tables import TABLES
from mupl.roles import Role

MUP = ["mup", "mup_table3", "mup_table9", "unit_init", "mulinear", "mean_field"]
CASES = [(p, o) for o in ("sgd", "adamw") for p in MUP] + [("cerebras", "adamw")]


@pytest.mark.parametrize("multiplier", [3, 4])
@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_formulations_of_mup_follow_one_trajectory(name: str, optimizer: str, multiplier: int) -> None:
    width = BASE * multiplier
    reference = trajectory("mup", optimizer, width)
    assert reference[-1] < 0.9 * reference[0]  # it trains
    torch.testing.assert_close(trajectory(name, optimizer, width), reference, atol=1e-12, rtol=0)


NEW = ["lion", "sign_sgd", "adam_atan2", "shampoo_svd"]


@pytest.mark.parametrize("name", ["mup_table3", "mup_table9", "unit_init", "mean_field"])
@pytest.mark.parametrize("optimizer", NEW)
def test_formulations_of_mup_follow_one_trajectory_under_other_optimizers(name: str, optimizer: str) -> None:
    reference = trajectory("mup", optimizer, 3 * BASE)
    assert reference[-1] < 0.9 * reference[0]
    torch.testing.assert_close(trajectory(name, optimizer, 3 * BASE), reference, atol=1e-10, rtol=0)
    assert (trajectory("sp", optimizer, 3 * BASE) - reference).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["mup_table3", "mup_table9"])
def test_formulations_of_mup_follow_one_trajectory_under_soap(name: str) -> None:
    """At factors that are powers of two: SOAP's eigenvectors of eigenvalue 0 are whatever rounding makes them."""
    reference = trajectory("mup", "soap", 4 * BASE)
    assert reference[-1] < 0.9 * reference[0]
    torch.testing.assert_close(trajectory(name, "soap", 4 * BASE), reference, atol=1e-10, rtol=0)


@pytest.mark.parametrize("field", ["lr", "weight_decay"])
@pytest.mark.parametrize("optimizer", [*NEW, "soap"])
def test_dropping_a_rule_is_seen_under_other_optimizers(optimizer: str, field: str) -> None:
    spoilt = trajectory("mup_table3", optimizer, 4 * BASE, edit=without(field, "readout.weight", optimizer=optimizer))
    assert (spoilt - trajectory("mup", optimizer, 4 * BASE)).abs().max() > 1e-8


def test_mulinear_equals_cerebras_to_the_last_bit_at_a_power_of_two() -> None:
    assert torch.equal(trajectory("mulinear", "adamw", 4 * BASE), trajectory("cerebras", "adamw", 4 * BASE))


def without(field: str, *names: str, optimizer: str = "adamw") -> Callable[[Mapping[str, Scale]], Mapping[str, Scale]]:
    """An edit that gives the named tensors the value of `field` that they have at the base width."""

    def edit(numbers: Mapping[str, Scale]) -> Mapping[str, Scale]:
        base = HYPERPARAMETERS[optimizer][field]
        return {name: replace(s, **{field: base}) if name in names else s for name, s in numbers.items()}

    return edit


CONTROLS = [
    ("mup", "eps", "layers.1.weight"),
    ("mup", "weight_decay", "layers.1.weight"),
    ("mup", "lr", "layers.1.weight"),
    ("mup_table3", "eps", "layers.0.bias"),
    ("mup_table3", "weight_decay", "readout.weight"),
    ("mup_table3", "lr", "readout.weight"),
    ("mup_table9", "eps", "readout.weight"),
    ("mup_table9", "weight_decay", "layers.0.weight"),
    ("mup_table9", "lr", "layers.0.bias"),
    ("unit_init", "eps", "layers.0.weight"),
    ("unit_init", "weight_decay", "layers.2.weight"),
    ("unit_init", "lr", "readout.weight"),
    ("cerebras", "eps", "readout.weight"),
    ("cerebras", "weight_decay", "layers.2.weight"),
    ("cerebras", "lr", "layers.2.weight"),
    ("mean_field", "eps", "layers.1.weight"),
    ("mean_field", "weight_decay", "layers.1.weight"),
    ("mean_field", "lr", "layers.1.weight"),
]


@pytest.mark.parametrize(("name", "field", "tensor"), CONTROLS)
def test_dropping_one_rule_is_seen(name: str, field: str, tensor: str) -> None:
    spoilt = trajectory(name, "adamw", 4 * BASE, edit=without(field, tensor))
    assert (spoilt - trajectory("mup", "adamw", 4 * BASE)).abs().max() > 1e-8


@pytest.mark.parametrize("tensor", ["layers.0.weight", "layers.1.weight", "layers.1.bias", "readout.weight"])
def test_dropping_a_gradient_factor_of_mulinear_is_seen(tensor: str) -> None:
    def edit(numbers: Mapping[str, Scale]) -> Mapping[str, Scale]:
        return {**numbers, tensor: replace(numbers[tensor], grad=1.0)}

    spoilt = trajectory("mulinear", "adamw", 4 * BASE, edit=edit)
    assert (spoilt - trajectory("mup", "adamw", 4 * BASE)).abs().max() > 1e-8


ONE_FAMILY = (("cerebras", "sgd"), ("umup_output_scale", "adamw"))  # which these have no rules for
ALL = [(name, o) for name in TABLES for o in ("sgd", "adamw") if (name, o) not in ONE_FAMILY]


@pytest.mark.parametrize(("name", "optimizer"), [case for case in ALL if not case[0].startswith("umup")])
def test_at_the_base_width_every_parametrization_is_the_standard_one(name: str, optimizer: str) -> None:
    reference = trajectory("sp", optimizer, BASE)
    torch.testing.assert_close(trajectory(name, optimizer, BASE), reference, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["sp", "ntk", "sp_full_align"])
def test_the_sp_class_leaves_mup_away_from_the_base_width(name: str) -> None:
    assert (trajectory(name, "adamw", 4 * BASE) - trajectory("mup", "adamw", 4 * BASE)).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "optimizer"), ALL)
def test_a_shift_by_any_theta_changes_no_trajectory(name: str, optimizer: str) -> None:
    family = "sgd" if optimizer == "sgd" else "adam"
    theta = {Role.INPUT: "3*m_out^1/3", Role.HIDDEN: "m_in^-1/2*sigma", Role.OUTPUT: 0.3, Role.SCALAR: 2}
    moved = shift(get_parametrization(name), theta, (family,))
    reference = trajectory(name, optimizer, 3 * BASE)
    torch.testing.assert_close(trajectory(moved, optimizer, 3 * BASE), reference, atol=1e-12, rtol=0)


@pytest.mark.parametrize("optimizer", [*NEW, "soap"])
def test_a_shift_by_any_theta_changes_no_trajectory_under_other_optimizers(optimizer: str) -> None:
    exact = {Role.INPUT: "2*m_out", Role.HIDDEN: "m_in^-1/2", Role.OUTPUT: 0.25, Role.SCALAR: 8}
    theta = {Role.INPUT: "3*m_out^1/3", Role.HIDDEN: "m_in^-1/2*sigma", Role.OUTPUT: 0.3, Role.SCALAR: 2}
    moved = shift(get_parametrization("mup"), exact if optimizer == "soap" else theta, ("adam", "orthogonal"))
    reference = trajectory("mup", optimizer, 4 * BASE)
    torch.testing.assert_close(trajectory(moved, optimizer, 4 * BASE), reference, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        ("mup_table3", {Role.OUTPUT: "m_in"}),
        ("mup_table9", {Role.INPUT: "m_out^1/2", Role.OUTPUT: "m_in^1/2"}),
        ("unit_init", {Role.INPUT: "sigma", Role.HIDDEN: "sigma*m_in^-1/2", Role.OUTPUT: "sigma"}),
        ("mean_field", {Role.HIDDEN: "m_in^-1/2"}),
    ],
)
@pytest.mark.parametrize("family", ["sgd", "adam", "orthogonal"])
def test_the_literal_tables_are_shifts_of_table_8(name: str, theta: dict[Role, str], family: str) -> None:
    moved = shift(get_parametrization("mup"), theta, (family,))
    for role in Role:
        assert moved.rule(family, role) == get_parametrization(name).rule(family, role), role


@pytest.mark.parametrize("family", ["sgd", "adam"])
def test_mulinear_layers_alone_with_one_group_are_the_mulinear_table(family: str) -> None:
    optimizer = "sgd" if family == "sgd" else "adamw"
    width = 3 * BASE
    model, _ = prepare("mulinear", optimizer, width)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            options = {"base_width": BASE, "family": family}
            self.layers = nn.ModuleList(
                [MuLinear(6, width, role="input", **options)]
                + [MuLinear(width, width, role="hidden", **options) for _ in range(2)]
            )
            self.readout = MuLinear(width, 3, role="output", **options)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x).tanh()
            return self.readout(x)

    net = Net().double()
    for name, parameter in net.named_parameters():  # drawn from the distribution of the table
        if name.endswith("weight"):
            expected = model.get_parameter(name).std()
            torch.testing.assert_close(parameter.std(), expected, rtol=0.35, atol=0)
    net.load_state_dict(model.state_dict())
    options = HYPERPARAMETERS[optimizer]
    stock = (
        torch.optim.SGD(net.parameters(), momentum=0.9, **options)
        if family == "sgd"
        else torch.optim.AdamW(net.parameters(), **options)
    )
    torch.testing.assert_close(train(net, stock, 30), trajectory("mup", optimizer, width, steps=30), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("family", "power"), [("sgd", 1.0), ("adam", 0.5)])
def test_lr_scale_of_mulinear_is_a_learning_rate_of_its_own(family: str, power: float) -> None:
    optimizer = "sgd" if family == "sgd" else "adamw"
    alpha = 4.0
    scaled = get_parametrization("mulinear", {"layers.1.weight": {"lr_scale": alpha}})
    cell = {"sgd": "m_out/m_in", "adam": "1/m_in"}[family]
    cell = {"sgd": "m_out/m_in", "adam": "1/m_in"}[family]
    by_group = get_parametrization("mup", {"layers.1.weight": {"lr": f"{alpha**power}*{cell}"}})
    plain = {"weight_decay": 0.0} | ({"eps": 0.0} if family == "adam" else {})
    torch.testing.assert_close(
        trajectory(scaled, optimizer, 2 * BASE, **plain),
        trajectory(by_group, optimizer, 2 * BASE, **plain),
        atol=1e-12,
        rtol=0,
    )


def test_a_foreign_module_follows_the_same_trajectory() -> None:
    class Plain(nn.Module):
        """The MLP of the other tests from torch's own layers."""

        def __init__(self, width: int) -> None:
            super().__init__()
            sizes = [6, width, width, width]
            self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in itertools.pairwise(sizes))
            self.readout = nn.Linear(width, 3)
            for layer in (*self.layers, self.readout):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x).tanh()
            return self.readout(x)

    for name in MUP:
        ours, theirs = (trajectory(name, "adamw", 3 * BASE, build=build) for build in (build_mlp, Plain))
        torch.testing.assert_close(theirs, ours, atol=1e-12, rtol=0)


def test_heterogeneous_widths_equal_a_single_width_when_all_are_alike() -> None:
    listed = trajectory("mup", "adamw", [3 * BASE] * 3, steps=20)
    assert torch.equal(listed, trajectory("mup", "adamw", 3 * BASE, steps=20))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parity_with_the_mup_package(optimizer: str) -> None:
    """PyPI's mup 1.0.0 (Yang et al.): MuReadout, set_base_shapes, MuSGD and MuAdamW."""
    import mup

    width, multiplier = 4 * BASE, 4
    ours, _ = prepare("mup", optimizer, width)

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(n, width) for n in (6, width, width))
            self.readout = mup.MuReadout(width, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x).tanh()
            return self.readout(x)

    net = mup.set_base_shapes(Net(width), Net(BASE), delta=Net(2 * BASE), rescale_params=False).double()
    assert net.readout.width_mult() == multiplier
    net.load_state_dict(ours.state_dict())
    if optimizer == "sgd":
        options = {"lr": 0.05}
        theirs: torch.optim.Optimizer = mup.MuSGD(net.parameters(), momentum=0.9, **options)
    else:
        options = {"lr": 0.01, "eps": 1e-30, "weight_decay": 0.0}
        theirs = mup.MuAdamW(net.parameters(), **options)
    mine = trajectory("mup", optimizer, width, **({"weight_decay": 0.0} | options))
    torch.testing.assert_close(train(net, theirs, 50), mine, atol=1e-12, rtol=0)


def test_batches_differ() -> None:
    (first, _), (second, _) = batches(2)
    assert not torch.equal(first, second)
