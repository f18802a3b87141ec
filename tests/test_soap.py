"""Which rules SOAP's tensors follow, by their sizes here and at the base width."""

import warnings
from functools import partial
from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import nn

import mupl
from mupl.errors import ConfigError
from mupl.models import GPT, MLP
from mupl.optim.registry import optimizer_rules
from mupl.parametrization.update_kinds import UpdateKind, as_optimizer_rules, kind_at_base
from mupl.roles import describe


def soap(largest: int = 10000) -> Any:
    return partial(pytorch_optimizer.SOAP, max_precondition_dim=largest)


def kinds(infos: Any, largest: int) -> dict[str, str]:
    rules = optimizer_rules(soap(largest))
    return {name: str(rules.kind_of(info)) for name, info in infos.items()}


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (128, ["rotated_in", "rotated_in", "rotated_in", "rotated_in"]),
        (64, ["rotated_in", "rotated_in", "rotated_out", "rotated_in"]),
        (16, ["rotated_in", "adam", "adam", "rotated_out"]),
        (5, ["adam", "adam", "adam", "rotated_out"]),
    ],
)
def test_a_kind_says_which_sides_are_small_enough(largest: int, expected: list[str]) -> None:
    """Of 32 x 6, 128 x 32, 64 x 128 and 3 x 64; vectors follow Adam."""
    infos = describe(lambda w: MLP(6, 3, [w, 4 * w, 2 * w]), 32, 8)
    found = kinds(infos, largest)
    matrices = [kind for name, kind in found.items() if len(infos[name].shape) == 2]
    assert matrices == expected
    assert {kind for name, kind in found.items() if name.endswith("bias")} == {"adam"}


def test_sides_are_those_of_the_linear_map_however_it_is_stored() -> None:
    """An embedding (in, out) and a convolution (out, in, height, width)."""

    def build(width: int) -> nn.Module:
        return nn.ModuleList([nn.Embedding(100, width), nn.Conv2d(width, 2 * width, 3)])

    infos = describe(build, 32, 8)
    assert kinds(infos, 64) == {
        "0.weight": "adam",
        "1.weight": "rotated_in",
        "1.bias": "adam",
    }
    assert kinds(infos, 32)["1.weight"] == "rotated_in"
    assert kinds(infos, 31)["1.weight"] == "adam"


def test_lr_eps_and_weight_decay_of_each_matrix() -> None:
    setup = mupl.Setup(
        partial(MLP, 6, 3), 32, base_width=8, optimizer="soap", lr=0.1, eps=1e-4, weight_decay=0.3
    )
    found = {name: (s.mult, s.lr, s.eps, s.weight_decay) for name, s in setup.scales.items()}
    assert found["layers.0.weight"] == pytest.approx((1, 0.1, 1e-4 / 4, 0.3))
    assert found["layers.1.weight"] == pytest.approx((1, 0.1 / 2, 1e-4 / 2, 0.3 * 2))
    assert found["readout.weight"] == pytest.approx((1 / 4, 0.1 * 2, 1e-4 / 2, 0.3 / 2))
    assert found["layers.1.bias"] == pytest.approx((1, 0.1, 1e-4 / 4, 0.3))
    assert setup.optimizer_rules.idle_steps == 1


def test_another_rule_can_be_said_and_leaves_vectors_to_adam() -> None:
    options = {"base_width": 8, "optimizer": "soap", "lr": 0.1}
    lrs = []
    for kind in ("adam", "rotated_in", "rotated"):
        setup = mupl.Setup(partial(MLP, 6, 3), 32, **options, update_kind=kind)
        assert setup.optimizer_rules.idle_steps == 1
        assert setup.scales["layers.1.bias"].update_kind == "adam"
        lrs.append([setup.scales[n].lr for n in ("layers.0.weight", "layers.1.weight")])
    assert lrs == [pytest.approx(x) for x in ([0.1, 0.025], [0.1, 0.05], [0.2, 0.1])]


def test_a_side_that_is_too_large_at_one_width_only_is_told() -> None:
    info = describe(lambda w: MLP(6, 3, [w, w]), 32, 8)["layers.1.weight"]
    rules = optimizer_rules(soap(16))
    assert (kind_at_base(rules, info), rules.kind_of(info)) == ("rotated_in", "adam")
    arguments: Any = {"base_width": 8, "lr": 0.1}
    told = "'readout.weight' are of another kind .*rotated_in at the base width and adam here"
    with pytest.warns(UserWarning, match=told):
        mupl.Setup(partial(MLP, 20, 20), 32, optimizer=soap(20), **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizer in (soap(), soap(4), "muon", "adamw"):
            mupl.Setup(partial(MLP, 6, 3), 32, optimizer=optimizer, **arguments)


def test_a_tied_embedding_needs_a_rule_that_is_the_same_both_ways() -> None:
    def build(width: int) -> nn.Module:
        return GPT(11, 4, width, depth=1, d_head=4, tied=True)

    options: Any = {"base_width": 8, "optimizer": "soap", "lr": 0.1}
    with pytest.raises(ConfigError, match="under SOAP update_kind=rotated or adam"):
        mupl.Setup(build, 16, **options)
    for kind in ("rotated", "adam"):
        mupl.Setup(build, 16, update_kind=kind, **options)


def test_an_update_has_the_exponents_of_its_kind_in_a_gradient_of_one_direction() -> None:
    """Adam's in the eigenbasis of both sides has one entry 1, of one side a column or a row."""
    slopes = {}
    for sides in ((), (0,), (1,), (0, 1)):
        norms = []
        for n in (16, 64):
            generator = torch.Generator().manual_seed(0)
            left, right = torch.randn(2, n, generator=generator, dtype=torch.float64)
            rotated = torch.outer(left, right)
            for side in sides:
                gram = rotated @ rotated.T if side == 0 else rotated.T @ rotated
                basis = torch.linalg.eigh(gram)[1]
                rotated = basis.T @ rotated if side == 0 else rotated @ basis
            update = torch.where(rotated.abs() > 1e-6, rotated.sign(), 0)
            norms.append(torch.linalg.matrix_norm(update, 2).log2().item())
        slopes[sides] = (norms[1] - norms[0]) / 2
    info = describe(lambda w: nn.Linear(w, w), 32, 8)["weight"]
    for sides, kind in (((), "adam"), ((0,), "rotated_out"), ((1,), "rotated_in")):
        scale = mupl.scale({"weight": info}, "mup", kind, lr=1.0)["weight"]
        assert scale.lr == pytest.approx(4 ** -slopes[sides]), kind
    both = mupl.scale({"weight": info}, "mup", UpdateKind.ROTATED, lr=1.0)["weight"]
    assert (both.lr, slopes[0, 1]) == pytest.approx((1.0, 0.0))


def test_a_layer_of_one_learning_rate_takes_no_rotated_basis() -> None:
    with pytest.raises(ConfigError, match="update_kind=rotated_in: must be one of adam, sgd"):
        mupl.MuLinear(8, 8, base_width=4, update_kind="rotated_in")


def test_a_named_kind_is_one_that_is_known() -> None:
    with pytest.raises(ConfigError, match="update_kind=turned: must be one of sgd, adam, orthogo"):
        as_optimizer_rules("turned")


def test_a_first_gradient_of_zero_is_told() -> None:
    """SOAP's first basis would be an arbitrary one of every matrix before the readout."""
    options: Any = {"base_width": 8, "lr": 0.1}

    def build(width: int, zero: bool) -> nn.Module:
        return MLP(6, 3, width, zero_readout=zero)

    for optimizer in ("soap", "blocked_soap"):
        with pytest.warns(UserWarning, match="by the first gradient, which is 0 before a readout"):
            mupl.Setup(partial(build, zero=True), 32, optimizer=optimizer, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mupl.Setup(partial(build, zero=False), 32, optimizer="soap", **options)
        mupl.Setup(partial(build, zero=True), 32, optimizer="shampoo_svd", **options)
