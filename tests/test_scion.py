"""Scion: steps to the edge of a norm's ball."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import mupl
from mupl.errors import ConfigError
from mupl.initializers import default_dtype
from mupl.models import GPT
from mupl.optim.orthogonal import svd
from mupl.optim.scion import Scion
from tests.loop import BASE, SCION, build_mlp, prepare, train


def test_the_first_step_is_its_formula() -> None:
    setup = mupl.Setup(build_mlp, 32, base_width=8, optimizer=SCION, lr=0.1)
    model = setup.model.double()
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    train(model, setup.optimizer(), 1)
    for name, w in model.named_parameters():
        g, mult = w.grad, setup.scales[name].mult
        assert g is not None
        if name.startswith("readout.w"):
            u = 2.0 * g.sign() / 32
        elif name.endswith("weight"):
            u = 2.0 * math.sqrt(w.shape[0] / w.shape[1]) * svd(g)
        else:
            u = 0.5 * g * len(g) ** 0.5 / g.norm()
        expected = 0.9 * mult * before[name] - 0.1 * u  # of the effective tensor
        torch.testing.assert_close(mult * w.detach(), expected, atol=1e-12, rtol=0)


def test_constrained_tensors_come_into_their_balls_whatever_the_width() -> None:
    for width in (16, 64):
        model, optimizer = prepare("mup", "scion", width, lr=0.1)
        train(model, optimizer, 80)
        w = model.get_parameter("layers.1.weight").detach()
        assert 1.0 < torch.linalg.matrix_norm(w, ord=2).item() < 2.01
        readout = 8 / width * model.get_parameter("readout.weight").detach()
        assert readout.abs().max().item() < 2.01 / width


@pytest.mark.parametrize("name", ["mup_table3", "mup_table9", "unit_init", "mean_field"])
@pytest.mark.parametrize("options", [{}, {"constrained": False}])
def test_formulations_of_mup_follow_one_trajectory(name: str, options: dict[str, Any]) -> None:
    decay = {"weight_decay": 0.1} if options else {}

    def losses(name: str) -> torch.Tensor:
        with default_dtype(torch.float64):
            setup = mupl.Setup(
                build_mlp,
                32,
                base_width=BASE,
                parametrization=name,
                optimizer=partial(SCION, **options),
                lr=0.02,
                **decay,
            )
        return train(setup.model, setup.optimizer(), 50)

    reference = losses("mup")
    assert reference[-1] < 0.9 * reference[0]
    torch.testing.assert_close(losses(name), reference, atol=1e-10, rtol=0)


def test_embeddings_move_by_rows_and_readouts_by_signs() -> None:
    setup = mupl.Setup(
        partial(GPT, 11, 8, depth=1, d_head=4), 16, base_width=8, optimizer="scion", lr=0.1
    )
    kinds = {name: scale.update_kind for name, scale in setup.scales.items() if scale.shape}
    assert kinds.pop("readout.weight") == "sign"
    assert {kind for name, kind in kinds.items() if "norm" in name or "emb" in name} == {"adam"}
    assert {kind for name, kind in kinds.items() if "blocks" in name and "norm" not in name} == {
        "orthogonal"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "scion", "weight_decay": 0.1}, "the optimizer itself sets the weight decay"),
        (
            {"optimizer": partial(Scion, matrix_radius=0)},
            "optimizer.matrix_radius=0: must be",
        ),
        (
            {"optimizer": partial(Scion, per="row")},
            "optimizer.per=row: must be one of",
        ),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mupl.Setup(build_mlp, 32, base_width=8, lr=0.1, **options)
    with pytest.raises(ConfigError, match="each param group must say update_kind"):
        Scion([nn.Parameter(torch.ones(2, 2))])
