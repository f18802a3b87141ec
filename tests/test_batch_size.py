"""Rules for batch size and training length."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from mupl.errors import ConfigError
from mupl.optim.batch_size import BatchScaling
from mupl.training.config import batch_scaling, build_setup

CONF = str(Path(__file__).parents[1] / "conf")
BASE = {"lr": 0.1, "eps": 1e-6, "weight_decay": 0.2}
adamw = partial(torch.optim.AdamW, betas=(0.9, 0.999))


def betas(scaling: BatchScaling, constructor: Any = adamw) -> tuple[float, float]:
    made = scaling.optimizer(constructor)([nn.Parameter(torch.zeros(1))])
    return made.param_groups[0]["betas"]


@pytest.mark.parametrize("rule", ["none", "sqrt", "sde"])
def test_at_the_base_nothing_changes(rule: str) -> None:
    scaling = BatchScaling(rule)
    assert scaling.values(**BASE) == BASE
    assert betas(scaling) == pytest.approx((0.9, 0.999))


def test_the_square_root_rule_is_of_lr_alone() -> None:
    scaling = BatchScaling("sqrt", m_B=4)
    assert scaling.values(**BASE) == BASE | {"lr": 0.2}
    assert betas(scaling) == (0.9, 0.999)


def test_the_rule_of_the_sde_is_that_of_malladi_et_al() -> None:
    """Their definition 5.1: lr sqrt(kappa), 1 - beta times kappa, eps / sqrt(kappa); kappa = 4."""
    scaling = BatchScaling("sde", m_B=4)
    assert scaling.values(**BASE) == pytest.approx({"lr": 0.2, "eps": 5e-7, "weight_decay": 0.4})
    assert betas(scaling) == pytest.approx((0.6, 0.996))
    assert betas(scaling, torch.optim.Adam) == pytest.approx((0.6, 0.996))


@pytest.mark.parametrize(("m_B", "m_D"), [(4, 1), (1, 4), (2, 8)])
def test_time_decay_and_memory_end_where_those_of_the_base_end(m_B: float, m_D: float) -> None:
    """lr^2 steps, lr weight_decay steps and (1 - beta) steps are those of the base."""
    scaling = BatchScaling("sde", m_B, m_D)
    values, steps = scaling.values(**BASE), m_D / m_B
    assert values["lr"] ** 2 * steps == pytest.approx(BASE["lr"] ** 2)
    assert values["lr"] * values["weight_decay"] * steps == pytest.approx(
        BASE["lr"] * BASE["weight_decay"]
    )
    assert (1 - betas(scaling)[0]) * steps == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("scaling", "constructor", "message"),
    [
        ({"rule": "cube"}, adamw, "batch_scaling=cube: must be one of none, sqrt, sde"),
        ({"rule": "sde", "m_B": 64}, adamw, "betas would be -5.4, 0.936; the batch is too large"),
        ({"rule": "sde", "m_B": 2}, torch.optim.SGD, "is a rule for Adam"),
        ({"rule": "sqrt", "m_B": 0}, adamw, "sizes must be positive"),
    ],
)
def test_bad_input_is_named(scaling: dict, constructor: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BatchScaling(**scaling).optimizer(constructor)


def test_it_acts_on_a_run() -> None:
    overrides = [
        "batch_scaling=sde",
        "base_batch_size=16",
        "batch_size=64",
        "max_steps=100",
        "base_steps=200",
        "lr=0.1",
    ]
    with initialize_config_dir(CONF, version_base="1.3"):
        cfg = compose(
            "train",
            [
                *overrides,
                "parametrization=absolute/groups",
                "parametrization.lr_adjustment_groups={}",
            ],
        )
    assert batch_scaling(cfg) == BatchScaling("sde", m_B=4.0, m_D=2.0)
    setup = build_setup(cfg, {"in_features": 4, "num_classes": 2})
    assert setup.scales["readout.bias"].lr == pytest.approx(0.1 * math.sqrt(2))
    assert setup.optimizer().param_groups[0]["betas"] == pytest.approx((0.8, 0.998))
