"""Updates that are divided by their norm, on the whole space or on a sphere (Hyperball)."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mupl
from mupl.errors import ConfigError
from mupl.models import MLP
from mupl.optim.elementwise import Lion
from mupl.optim.normalized import Normalized, on_sphere
from tests.loop import build_mlp, prepare, train

SPECTRAL = partial(Normalized, inner="adamw", normalise="spectral")
FROBENIUS = partial(Normalized, inner=Lion, normalise="frobenius")
HIDDEN = ("layers.1.weight", "layers.2.weight")


def trained(optimizer: Any, steps: int = 1, **options: Any) -> tuple[mupl.Setup, dict, dict]:
    """A setup after some steps, and its tensors before the last one and after it."""
    arguments: dict[str, Any] = {"base_width": 8, "lr": 0.05} | options
    setup = mupl.Setup(partial(MLP, 6, 3), 32, optimizer=optimizer, **arguments)
    setup.model.double()
    stepper = setup.optimizer()
    if steps > 1:
        train(setup.model, stepper, steps - 1)
    before = {name: w.detach().clone() for name, w in setup.model.named_parameters()}
    train(setup.model, stepper, 1)
    return setup, before, dict(setup.model.named_parameters())


def norm(x: Tensor) -> float:
    return torch.linalg.matrix_norm(x.detach()).item()


@pytest.mark.parametrize("optimizer", ["adamh", "muonh"])
def test_hyperball_keeps_norms_and_moves_by_a_share_of_them(optimizer: str) -> None:
    setup, before, after = trained(optimizer, steps=4)
    for name in HIDDEN:
        radius = norm(before[name])
        assert norm(after[name]) == pytest.approx(radius, rel=1e-12)
        # the chord of a step of lr that is pulled back to the sphere
        step = norm(after[name] - before[name]) / radius
        assert 0.6 < step / setup.scales[name].lr < 1.002
    assert norm(after["readout.weight"]) != pytest.approx(norm(before["readout.weight"]), rel=1e-3)


def test_the_first_step_of_adamh_is_its_formula() -> None:
    setup, before, after = trained("adamh")
    w = before["layers.1.weight"]
    g = after["layers.1.weight"].grad
    assert g is not None
    u = g / (g.abs() + setup.scales["layers.1.weight"].eps)  # Adam's first direction
    lr = 0.05 / 4**0.5  # the width is four times the base width
    moved = w - lr * norm(w) * u / norm(u)
    expected = norm(w) * moved / norm(moved)
    torch.testing.assert_close(after["layers.1.weight"].detach(), expected, atol=1e-12, rtol=0)


def test_a_matrix_without_a_direction_rests() -> None:
    w = torch.randn(3, 5)
    assert torch.equal(on_sphere(w, torch.zeros(3, 5), 0.1), w)
    assert torch.equal(on_sphere(torch.zeros(3, 5), w, 0.1), torch.zeros(3, 5))


@pytest.mark.parametrize(("optimizer", "order"), [(SPECTRAL, 2), (FROBENIUS, "fro")])
def test_a_normalised_update_has_the_norm_that_is_said(optimizer: Any, order: Any) -> None:
    rate, decay = 0.05, 0.3
    setup, before, after = trained(optimizer, steps=3, weight_decay=decay)
    for name in HIDDEN:
        change = before[name] * (1 - rate * setup.scales[name].weight_decay) - after[name]
        size = torch.linalg.matrix_norm(change.detach(), ord=order).item()
        assert size == pytest.approx(rate, rel=1e-6)


def test_the_first_normalised_step_is_its_formula() -> None:
    """Of a matrix (64, 32), with a weight decay that is no part of the direction."""
    build = lambda width: MLP(6, 3, [width, 2 * width])  # noqa: E731
    options: dict[str, Any] = {"base_width": 8, "lr": 0.05, "weight_decay": 0.3}
    setup = mupl.Setup(build, 32, optimizer=SPECTRAL, **options)
    model = setup.model.double()
    w = model.get_parameter("layers.1.weight")
    before = w.detach().clone()
    train(model, setup.optimizer(), 1)
    g, scale = w.grad, setup.scales["layers.1.weight"]
    assert g is not None
    u = g / (g.abs() + scale.eps)
    u = math.sqrt(2) * u / torch.linalg.matrix_norm(u, ord=2)
    expected = before - scale.lr * (scale.weight_decay * before + u)
    torch.testing.assert_close(w.detach(), expected, atol=1e-10, rtol=0)


def test_the_shape_factor_makes_an_rms_to_rms_norm_of_lr() -> None:
    for name in ("layers.1.weight", "layers.2.weight", "readout.weight"):
        norms = []
        for width in (8, 64):
            setup = mupl.Setup(
                lambda width: MLP(6, 3, [width, 2 * width, width]),
                width,
                base_width=8,
                lr=0.1,
                optimizer=partial(SPECTRAL, roles=("hidden", "output")),
            )
            info, scale = setup.infos[name], setup.scales[name]
            update = scale.mult * scale.lr * scale.shape_factor  # its spectral norm
            norms.append(update * math.sqrt(info.fan_in / info.fan_out))
        assert norms == pytest.approx([0.1, 0.1]), name


@pytest.mark.parametrize("optimizer", ["adamh", SPECTRAL, FROBENIUS])
def test_tensors_of_other_roles_follow_the_inner_optimizer(optimizer: Any) -> None:
    inner = Lion if optimizer is FROBENIUS else "adamw"
    weight_decay = 0.0 if optimizer == "adamh" else 0.1
    _, _, ours = trained(optimizer, weight_decay=weight_decay)
    _, _, theirs = trained(inner, weight_decay=weight_decay)
    for name, w in ours.items():
        assert torch.equal(w, theirs[name]) is (name not in HIDDEN)


@pytest.mark.parametrize("name", ["mup_table3", "mup_table9", "unit_init", "mean_field"])
@pytest.mark.parametrize("optimizer", ["adamh", "muonh", "adam_spectral"])
def test_formulations_of_mup_follow_one_trajectory(name: str, optimizer: str) -> None:
    reference = train(*prepare("mup", optimizer, 32), 50)
    assert reference[-1] < 0.9 * reference[0]
    torch.testing.assert_close(
        train(*prepare(name, optimizer, 32), 50), reference, atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("optimizer", ["adamh", "muonh", SPECTRAL])
def test_training_goes_on_from_a_saved_state(optimizer: Any) -> None:
    setup = mupl.Setup(build_mlp, 32, base_width=8, optimizer=optimizer, lr=0.05)
    setup.model.double()
    stepper = setup.optimizer()
    train(setup.model, stepper, 3)
    weights, state = (copy.deepcopy(x.state_dict()) for x in (setup.model, stepper))
    copied = copy.deepcopy((setup.model, stepper))
    losses = train(setup.model, stepper, 3)
    assert torch.equal(train(*copied, 3), losses)
    setup.model.load_state_dict(weights)
    fresh = setup.optimizer()
    fresh.load_state_dict(state)
    assert torch.equal(train(setup.model, fresh, 3), losses)


def test_a_schedule_reaches_both_kinds_of_tensors() -> None:
    setup = mupl.Setup(build_mlp, 32, base_width=8, optimizer="adamh", lr=0.05)
    setup.model.double()
    stepper = setup.optimizer()
    for group in stepper.param_groups:
        group["lr"] = 0.0
    before = [w.detach().clone() for w in setup.model.parameters()]
    train(setup.model, stepper, 2)
    for w, old in zip(setup.model.parameters(), before, strict=True):
        torch.testing.assert_close(w.detach(), old, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": 0.1}, "weight_decay=0.1: the optimizer itself sets the weight decay of"),
        ({"optimizer": partial(Normalized, normalise="l1")}, "optimizer.normalise=l1: must be one"),
        ({"optimizer": partial(Normalized, roles="hidden")}, "optimizer.roles=hidden: must be a"),
        ({"optimizer": partial(Normalized, roles=("all",))}, "optimizer.roles=all: must be of"),
        (
            {"optimizer": partial(Normalized, inner=partial(torch.optim.SGD, lr=1.0))},
            "optimizer.lr=1.0: each tensor gets its own lr",
        ),
        ({"optimizer": partial(Normalized, inner=torch.optim.Adagrad)}, "Adagrad: how its updates"),
        ({"build": lambda width: MLP(6, 3, width, depth=1)}, "the model has no such matrix"),
        (
            {
                "build": lambda width: MLP(6, 3, width, zero_readout=True),
                "optimizer": partial(Normalized, normalise="hyperball", roles=("output",)),
            },
            "optimizer.roles: 'readout.weight' starts at 0, and a norm of 0 that is kept",
        ),
    ],
)
def test_what_cannot_be_is_said_before_training(options: dict[str, Any], message: str) -> None:
    arguments = {"build": build_mlp, "width": 32, "base_width": 8, "lr": 0.1, "optimizer": "adamh"}
    with pytest.raises(ConfigError, match=message):
        mupl.Setup(**arguments | options).optimizer()


def test_weight_decay_of_the_other_tensors_alone_and_an_optimizer_of_ones_own() -> None:
    table = mupl.get_parametrization("mup", {"layers.[12].weight": {"wd": 0}})
    setup, *_ = trained("adamh", parametrization=table, weight_decay=0.1)
    decays = {name: scale.weight_decay for name, scale in setup.scales.items()}
    assert decays["layers.1.weight"] == 0 < decays["layers.0.weight"]
    own = partial(Normalized, inner=torch.optim.Adagrad, inner_kind="adam", normalise="spectral")
    trained(own)


def test_a_matrix_that_is_stored_the_other_way_round_is_normalised_too() -> None:
    class Transposed(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up = nn.Linear(4, width)
            self.weight = nn.Parameter(torch.randn(width, 2 * width) / width**0.5)

    setup = mupl.Setup(
        Transposed, 16, base_width=8, roles={"weight": "hidden"}, optimizer="adamh", lr=0.1
    )
    assert setup.scales["weight"].update_kind == "relative_low_rank"
