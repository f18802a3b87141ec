"""Models, schedules and the LightningModule."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import nn

from mupl.data import digits
from mupl.data.modules import TensorData
from mupl.errors import ConfigError
from mupl.models import MLP
from mupl.models.mlp import ACTIVATIONS
from mupl.nn.layers import ScaledLinear
from mupl.optim.schedules import SHAPES, Schedule
from mupl.parametrization.rules import get_parametrization
from mupl.training.callbacks import LossRecord
from mupl.training.module import TrainingModule
from mupl.training.outcome import outcome
from mupl.training.setup import Setup
from tests.resuming import trainer

digits_mlp = partial(MLP, 64, 10)
tiny_mlp = partial(MLP, 4, 2)
digits_setup = partial(Setup, digits_mlp, 32, base_width=16)


def fit(
    setup: Setup,
    *,
    module: type[TrainingModule] = TrainingModule,
    batch_size: int = 64,
    **options: object,
) -> tuple[LossRecord, Trainer]:
    """Train on the digits, with every step logged."""
    record = LossRecord()
    stock = trainer(**{"log_every_n_steps": 1, "callbacks": [record]} | options)
    data = TensorData(digits(), batch_size=batch_size, seed=setup.seed)
    stock.fit(module(setup), datamodule=data)
    return record, stock


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_mlp_computes_its_formula(activation: str, bias: bool) -> None:
    torch.manual_seed(0)
    model = MLP(
        12,
        3,
        [5, 7],
        bias=bias,
        activation=activation,
        input_mult=0.5,
        output_mult=4.0,
        init_std=2.0,
    )
    x = torch.randn(8, 3, 2, 2)
    h = 0.5 * x.flatten(1)
    for layer in model.layers:
        h = ACTIVATIONS[activation](F.linear(h, layer.weight, layer.bias))
    torch.testing.assert_close(model(x), 4 * F.linear(h, model.readout.weight, model.readout.bias))
    assert [name for name, _ in model.named_parameters() if "bias" in name] == (
        ["layers.0.bias", "layers.1.bias", "readout.bias"] if bias else []
    )


def test_mlp_width_and_depth() -> None:
    assert [layer.out_features for layer in MLP(4, 2, 8, depth=3).layers] == [8, 8, 8]
    assert [layer.out_features for layer in MLP(4, 2, [8, 16]).layers] == [8, 16]
    assert MLP(4, 2, 8, zero_readout=True).readout.weight.abs().max() == 0
    assert MLP(1000, 2, 1000, init_std=3.0).layers[0].weight.std().item() == pytest.approx(
        3 / 1000**0.5, rel=0.01
    )


@pytest.mark.parametrize(
    ("make", "options", "key"),
    [
        (tiny_mlp, {"width": 0}, "width=0"),
        (tiny_mlp, {"width": []}, "width="),
        (tiny_mlp, {"width": 4, "depth": 0}, "depth=0"),
        (tiny_mlp, {"width": 4, "activation": "selu"}, "model.activation=selu"),
        (tiny_mlp, {"width": 4, "init_std": -1}, "model.init_std=-1"),
        (Schedule, {"shape": "saw"}, "scheduler.shape=saw"),
        (Schedule, {"warmup": 1.5}, "scheduler.warmup=1.5"),
        (Schedule, {"shape": "linear", "warmup": 0.5, "decay": 0.6}, "scheduler.decay=0.6"),
        (Schedule, {"shape": "inverse_sqrt"}, "scheduler.warmup=0"),
    ],
)
def test_a_bad_argument_is_named(make: Callable[..., object], options: dict, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        make(**options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (4,)])
def test_scaled_linear_is_a_linear_layer_with_scaled_tensors(
    shape: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    layer = ScaledLinear(4, 6, bias).double()
    layer.set_scale("weight", 0.25, 8.0)
    layer.set_scale("bias", 3.0, 0.5)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(*shape[:-1], 6, dtype=torch.float64)
    layer(x).backward(upstream)
    got = [x.grad, layer.weight.grad] + ([layer.bias.grad] if bias else [])
    w, b, z = (
        t.detach().clone().requires_grad_() if t is not None else None
        for t in (layer.weight, layer.bias, x)
    )
    y = F.linear(z, 0.25 * w, None if b is None else 3.0 * b)
    torch.testing.assert_close(layer(x), y)
    y.backward(upstream)
    expected = [z.grad, 8 * w.grad] + ([0.5 * b.grad] if bias else [])
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_scaled_linear_under_autocast_and_without_gradients() -> None:
    layer = ScaledLinear(16, 16)
    layer.set_scale("weight", 0.5, 4.0)
    x = torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype is torch.bfloat16
    y.float().sum().backward()
    expected = 4 * 0.5 * x.sum(0).expand(16, 16)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=0.05, atol=0.1)
    layer.requires_grad_(False)
    assert not layer(x).requires_grad


@pytest.mark.parametrize("shape", SHAPES)
def test_schedules(shape: str) -> None:
    schedule = Schedule(shape, warmup=0.1, decay=0.6, final=0.2)
    times = [k / 1000 for k in range(1001)]
    factors = [schedule.at(t) for t in times]
    assert factors[0] == 0
    assert factors[50] == pytest.approx(0.5)
    assert all(f == 1 for f in factors[100:401])  # between warm-up and decay
    expected = {
        "constant": (1.0, 1.0),
        "linear": (1 - 0.8 * 2 / 3, 0.2),
        "cosine": (0.2 + 0.8 / 4, 0.2),
        "step": (0.1, 0.01),
        "inverse_sqrt": (math.sqrt(0.4 / 0.8), math.sqrt(0.4)),
    }
    assert (factors[800], factors[1000]) == pytest.approx(expected[shape])
    assert all(a >= b for a, b in pairwise(factors[100:]))


def test_the_factor_of_an_update_is_that_at_the_middle_of_its_step() -> None:
    rising = Schedule("constant", warmup=1.0)
    assert [rising(k, 4) for k in range(4)] == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8])


def test_milestones_count_from_where_they_lie() -> None:
    steps = Schedule("step", gamma=0.5, milestones=(0.25, 0.5))
    assert [steps.at(k / 4) for k in range(4)] == [1, 0.5, 0.25, 0.25]


def test_a_schedule_keeps_the_ratios_between_groups() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [p], "lr": lr} for p, lr in zip(parameters, (0.1, 0.4), strict=True)]
    )
    scheduler = Schedule("cosine", warmup=0.2).scheduler(optimizer, 10)
    for _ in range(10):
        a, b = (group["lr"] for group in optimizer.param_groups)
        assert 0 < a < 0.1 + 1e-12
        assert b / a == pytest.approx(4)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adamw", partial(torch.optim.Adam, betas=(0.8, 0.99))]
)
@pytest.mark.parametrize("parametrization", ["sp", get_parametrization("mup")])
def test_the_module_trains_with_a_stock_trainer(optimizer: object, parametrization: object) -> None:
    lr = 0.3 if optimizer == "sgd" else 0.01
    schedule = Schedule("cosine", warmup=0.1)
    setup = digits_setup(
        parametrization=parametrization, optimizer=optimizer, lr=lr, schedule=schedule
    )
    record, stock = fit(setup, max_steps=44)
    assert record.steps == 44
    assert not record.diverged
    assert record.outcome()["train_loss"] < 0.5 * record.losses[0]
    assert stock.callback_metrics["val_accuracy"] > 0.6


def test_training_is_a_function_of_the_seed() -> None:
    def losses(seed: int) -> torch.Tensor:
        return fit(digits_setup(lr=0.01, seed=seed), max_steps=5)[0].losses

    assert torch.equal(losses(1), losses(1))
    assert not torch.equal(losses(1), losses(2))


def test_double_precision_and_gradient_clipping() -> None:
    setup = digits_setup(lr=0.01, optimizer="sgd")
    before = [p.detach().double().clone() for p in setup.model.parameters()]
    fit(setup, max_steps=3, precision="64-true", gradient_clip_val=1e-9)
    for old, new in zip(before, setup.model.parameters(), strict=True):
        assert new.dtype is torch.float64
        assert (new - old).abs().max() < 1e-9


@pytest.mark.parametrize("every", [1, 7])
def test_a_diverging_run_stops_early_and_says_at_which_step(every: int) -> None:
    record, stock = fit(
        digits_setup(lr=1e20, optimizer="sgd"), max_steps=100, log_every_n_steps=every
    )
    assert record.diverged
    assert record.steps < every + 3
    assert record.losses[: record.steps].isfinite().all()
    assert not record.losses[record.steps].isfinite()
    assert stock.global_step <= 14
    assert math.isnan(record.outcome()["train_loss"])


def test_a_record_is_empty_before_a_training() -> None:
    record = LossRecord()
    assert (len(record.losses), record.steps, record.diverged) == (0, 0, False)


def test_the_final_loss_is_the_mean_of_the_last_tenth() -> None:
    assert outcome(torch.arange(20.0), diverged=False, validation={})["train_loss"] == 18.5


def test_an_unknown_optimizer_is_named_and_a_family_can_be_given() -> None:
    with pytest.raises(ConfigError, match="optimizer=lamb: must be one of sgd"):
        digits_setup(lr=0.1, optimizer="lamb")
    with pytest.raises(ConfigError, match="Adagrad: how its updates scale is not known"):
        digits_setup(lr=0.1, optimizer=torch.optim.Adagrad)
    setup = digits_setup(lr=0.1, optimizer=torch.optim.Adagrad, update_kind="adam")
    assert setup.scales["layers.1.weight"].lr == pytest.approx(0.05)


def test_the_loss_of_an_update_is_the_mean_over_its_accumulated_batches() -> None:
    class Noted(TrainingModule):
        def training_step(
            self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int
        ) -> torch.Tensor:
            loss = super().training_step(batch, batch_idx)
            noted.append(loss.item())
            return loss

    noted: list[float] = []
    setup = Setup(digits_mlp, 8, base_width=8, lr=0.01)
    # 5 batches an epoch: its third update has one
    record, _ = fit(setup, module=Noted, batch_size=287, max_steps=6, accumulate_grad_batches=2)
    assert record.steps == 6
    means = [
        sum(noted[i:j]) / (j - i) for i, j in ((0, 2), (2, 4), (4, 5), (5, 7), (7, 9), (9, 10))
    ]
    assert record.losses.tolist() == pytest.approx(means)


def test_a_schedule_needs_an_end() -> None:
    setup = digits_setup(lr=0.01)
    with pytest.raises(ConfigError, match=r"trainer.max_steps=-1: a schedule needs an end"):
        fit(setup, max_steps=-1, max_epochs=-1)


def test_options_that_an_optimizer_refuses_are_one_clear_error() -> None:
    setup = digits_setup(lr=0.01, optimizer=partial(torch.optim.AdamW, betas=(0.9, 1.5)))
    with pytest.raises(
        ConfigError, match=r"optimizer=AdamW: Invalid beta parameter at index 1: 1.5"
    ):
        setup.optimizer()
