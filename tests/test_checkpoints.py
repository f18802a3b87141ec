"""Training goes on from a saved state in any loop, or says what differs."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import mupl
from mupl.models import MLP
from tests.changes import saved_and_loaded

State = dict[str, Any]


class Plain(nn.Module):
    """An LSTM in which only the readout has a multiplier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, width)
        self.readout = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.lstm(x)[0])


def ours(width: int) -> nn.Module:
    return MLP(6, 3, width)


def prepared(build: Any, seed: int = 0, **options: Any) -> tuple[nn.Module, Optimizer]:
    """A model, and a plain optimizer of torch that refuses the states of others."""
    values = {"lr": 0.01, "base_width": 16, "weight_decay": 0.1} | options
    setup = mupl.Setup(build, 32, seed=seed, optimizer="adamw", **values)
    optimizer = AdamW(mupl.param_groups(setup.model, setup.scales))
    optimizer.register_load_state_dict_pre_hook(mupl.check_same_groups)
    return setup.model, optimizer


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def saved_state(build: Any = ours, **options: Any) -> State:
    """The state of a model and its optimizer after some steps, from a file."""
    model, optimizer = prepared(build, **options)
    train(model, optimizer, range(4))
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return saved_and_loaded(state, weights_only=True)


@pytest.mark.parametrize("build", [Plain, ours])
def test_a_plain_loop_goes_on_bit_for_bit(build: Any) -> None:
    whole = train(*prepared(build), range(8))
    state = saved_state(build)
    model, optimizer = prepared(build, seed=1)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    assert train(model, optimizer, range(4, 8)) == whole[4:]


# What differs: options of the run that saved and of the one that goes on, and what is said
TABLE3 = {"parametrization": "mup_table3"}  # without multipliers, of which the model would know
OTHERS: dict[str, tuple[State, State, str]] = {
    "base width": (TABLE3, TABLE3 | {"base_width": 8}, "lr=0.005 (now 0.0025) of layers.1.weight"),
    "table": (TABLE3, {"parametrization": "sp"}, "lr=0.005 (now 0.01) of layers.1.weight"),
    "learning rate": ({}, {"lr": 0.02}, "saved under lr=0.01 (now 0.02) of layers.0.weight"),
    "decay": ({}, {"weight_decay": 0.0}, "weight_decay=0.1 (now 0.0) of layers.0.weight"),
    "eps": ({}, {"eps": 1e-3}, "eps="),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_setup_is_refused_with_both_values(name: str) -> None:
    before, after, words = OTHERS[name]
    state = saved_state(**before)
    _, optimizer = prepared(ours, **after)
    with pytest.raises(mupl.ConfigError, match=re.escape(words)) as refusal:
        optimizer.load_state_dict(state["optimizer"])
    assert "mupl.with_groups_of(optimizer, state)" in str(refusal.value)
    assert not optimizer.state


def test_a_schedule_is_no_other_learning_rate() -> None:
    def scheduled() -> tuple[Optimizer, Any]:
        _, optimizer = prepared(ours)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    optimizer, scheduler = scheduled()
    optimizer.step()
    scheduler.step()
    other, _ = scheduled()
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.005


def moments(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return {name: optimizer.state[w]["exp_avg"] for name, w in model.named_parameters()}


def test_hyperparameters_that_were_changed_on_purpose_are_kept() -> None:
    """At the base width all tensors are one group, so that they come in another order."""
    state = saved_state(**TABLE3)
    model, optimizer = prepared(ours, **TABLE3, base_width=32, lr=0.02)
    mine = optimizer.state_dict()["param_groups"]
    theirs = state["optimizer"]["param_groups"]
    assert [group["param_names"] for group in mine] != [group["param_names"] for group in theirs]
    optimizer.load_state_dict(mupl.with_groups_of(optimizer, state["optimizer"]))
    assert optimizer.state_dict()["param_groups"] == mine
    model.load_state_dict(state["model"])
    earlier = prepared(ours, **TABLE3)
    train(*earlier, range(4))
    for name, moment in moments(*earlier).items():
        assert torch.equal(moments(model, optimizer)[name], moment), name


def test_a_state_of_other_tensors_or_without_names_is_refused() -> None:
    state = saved_state()["optimizer"]
    _, optimizer = prepared(Plain)
    with pytest.raises(mupl.ConfigError, match="it is of 8 tensors, the optimizer of 6; not of bo"):
        optimizer.load_state_dict(state)
    for group in state["param_groups"]:
        group["params"].reverse()
        group["param_names"].reverse()
    _, optimizer = prepared(ours)
    with pytest.raises(mupl.ConfigError, match="in another order"):
        optimizer.load_state_dict(state)
    for group in state["param_groups"]:
        del group["param_names"]
        group["lr"] /= 2
    with pytest.raises(mupl.ConfigError, match=re.escape("lr=0.005 (now 0.01) of tensor 0")):
        optimizer.load_state_dict(state)
    with pytest.raises(mupl.ConfigError, match="it has no names of tensors"):
        mupl.with_groups_of(optimizer, state)
