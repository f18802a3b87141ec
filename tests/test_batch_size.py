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
from mupl.optim.batch_size import BatchScaling, grown_batch_size
from mupl.parametrization.hyperparameters import SIZE_RULES
from mupl.training.config import batch_scaling, build_setup

CONF = str(Path(__file__).parents[1] / "conf")
BASE = {"lr": 0.1, "eps": 1e-6, "weight_decay": 0.2}
adamw = partial(torch.optim.AdamW, betas=(0.9, 0.999))


def betas(scaling: BatchScaling, constructor: Any = adamw) -> tuple[float, float]:
    made = scaling.optimizer(constructor)([nn.Parameter(torch.zeros(1))])
    return made.param_groups[0]["betas"]


@pytest.mark.parametrize("rule", SIZE_RULES)
def test_at_the_base_nothing_changes(rule: str) -> None:
    scaling = BatchScaling(rule)
    assert scaling.values(**BASE) == BASE
    assert betas(scaling) == pytest.approx((0.9, 0.999))


def test_the_square_root_rule_is_of_lr_alone() -> None:
    scaling = BatchScaling("sqrt", m_B=4)
    assert scaling.values(**BASE) == BASE | {"lr": 0.2}
    assert betas(scaling) == (0.9, 0.999)


@pytest.mark.parametrize(
    ("rule", "factors"),
    [
        ("sqrt", {"lr": 2 / 8**0.5}),
        ("timescale", {"weight_decay": 4 / 8}),
        ("horizon", {"lr": 8**-0.32}),
        ("hyperp", {"lr": 2 * 8**-0.32}),
        ("scion", {"lr": 4**0.62 * 8**-0.56}),
    ],
)
def test_a_rule_is_the_published_power_of_batch_size_and_examples(
    rule: str, factors: dict[str, float]
) -> None:
    scaling = BatchScaling(rule, m_B=4, m_D=8)
    expected = {key: value * factors.get(key, 1.0) for key, value in BASE.items()}
    assert scaling.values(**BASE) == pytest.approx(expected)
    assert betas(scaling) == (0.9, 0.999)


def test_the_time_scale_of_weight_decay_is_the_same_part_of_training() -> None:
    values = BatchScaling("timescale", m_B=2, m_D=6).values(**BASE)
    steps = 6 / 2
    assert values["lr"] * values["weight_decay"] * steps == pytest.approx(0.1 * 0.2)


def test_batches_grow_with_training_as_published() -> None:
    assert grown_batch_size(64, 10) == round(64 * 10**0.383) == 155
    assert grown_batch_size(64, 10, "scion") == round(64 * 10**0.45) == 180
    assert grown_batch_size(1, 1e-6) == 1
    with pytest.raises(ConfigError, match="rule=linear: must be one of power_lines, scion"):
        grown_batch_size(64, 10, "linear")
    with pytest.raises(ConfigError, match="m_D=0: must be above 0"):
        grown_batch_size(64, 0)


def test_the_rule_of_the_sde_is_that_of_malladi_et_al() -> None:
    """Their definition 5.1: lr sqrt(kappa), 1 - beta times kappa, eps / sqrt(kappa); kappa = 4."""
    scaling = BatchScaling("sde", m_B=4)
    assert scaling.values(**BASE) == pytest.approx({"lr": 0.2, "eps": 5e-7, "weight_decay": 0.4})
    assert betas(scaling) == pytest.approx((0.6, 0.996))
    assert betas(scaling, torch.optim.Adam) == pytest.approx((0.6, 0.996))


@pytest.mark.parametrize(("m_B", "m_D"), [(4, 1), (1, 4), (2, 8)])
def test_time_decay_and_memory_end_where_those_of_the_base_end(m_B: float, m_D: float) -> None:
    """lr^2 steps, lr weight_decay steps and (1 - beta) steps are as at the base."""
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
        ({"rule": "cube"}, adamw, "batch_scaling=cube: must be one of none, sqrt, sde, t"),
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
