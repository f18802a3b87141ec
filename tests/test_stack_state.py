"""What a stack goes on from: its state, and the random streams of its members."""

import copy
import re
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.data import Splits, digits
from mupl.stacked.rules import NotStackable
from tests.test_stack import build, stack_of


class Noisy(nn.Module):
    """A foreign module: images as vectors through two layers, with noise before each."""

    def __init__(self, width: int, noise: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, width), nn.Linear(width, 10)])
        self.noise = noise
        self.again = noise  # one module at two places

    def forward(self, x: Tensor) -> Tensor:
        h = self.again(self.layers[0](self.noise(x.flatten(1))).relu())
        return self.layers[1](h)


def with_dropout(width: int) -> nn.Module:
    return Noisy(width, nn.Dropout(0.2))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits()


def seeds_of(*seeds: int) -> list[dict[str, Any]]:
    return [{"lr": 0.01, "seed": seed} for seed in seeds]


def test_a_foreign_modules_dropout_is_drawn_for_each_member_and_goes_on(splits: Splits) -> None:
    whole = stack_of(with_dropout, seeds_of(3, 1, 2), splits, train=5)
    state = copy.deepcopy(whole.state_dict())
    whole.train(10)
    resumed = stack_of(with_dropout, seeds_of(3, 1, 2), splits)
    resumed.load_state_dict(state)
    resumed.train(10)
    assert torch.equal(resumed.losses[:10], whole.losses[:10])
    alone = stack_of(with_dropout, seeds_of(1), splits, train=10)
    torch.testing.assert_close(alone.losses[:10, 0], whole.losses[:10, 1], atol=1e-12, rtol=0)
    assert whole.evaluate() == whole.evaluate()


@pytest.mark.parametrize("noise", [nn.Dropout1d(0.1), nn.AlphaDropout(0.1), nn.RReLU()])
def test_other_random_modules_are_refused(noise: nn.Module, splits: Splits) -> None:
    message = f"model: noise is {type(noise).__name__}; .* by nn.Dropout only"
    with pytest.raises(NotStackable, match=message):
        stack_of(partial(Noisy, noise=noise), seeds_of(0), splits)


def test_a_random_forward_is_refused_before_the_first_update(splits: Splits) -> None:
    with pytest.raises(NotStackable, match=r"model: its forward is random; .* by nn.Dropout only"):
        stack_of(partial(Noisy, noise=F.dropout), seeds_of(0), splits)


def test_members_that_diverged_stay_frozen_after_a_resume(splits: Splits) -> None:
    arguments: list[dict[str, Any]] = [
        {"seed": 0, "optimizer": "sgd", "parametrization": "sp", "lr": lr} for lr in (0.01, 1e300)
    ]
    relu = partial(build, activation="relu")
    whole = stack_of(relu, arguments, splits, train=10)
    assert whole.diverged()[1] is not None
    state = copy.deepcopy(whole.state_dict())
    whole.train(20)
    assert all((weight[1] == 0).all() for weight in whole.weights.values())
    resumed = stack_of(relu, arguments, splits)
    resumed.load_state_dict(state)
    resumed.train(20)
    assert torch.equal(resumed.losses[10:20], whole.losses[10:20])


ABSENT = object()
BIAS = "weights.layers.0.bias"
MOMENT = "state.exp_avg.readout.bias"
SPOILT: list[tuple[str, Any, str]] = [
    ("k", -1, "k=-1: must be a whole number from 0 to 100"),
    ("k", 101, "k=101: must be a whole number from 0 to 100"),
    ("k", "3", "k='3': must be a whole number from 0 to 100"),
    ("k", ABSENT, "k=None: must be a whole number from 0 to 100"),
    ("losses", [], "losses is list: must be a tensor"),
    ("losses", torch.zeros(90, 2).double(), "losses is (2, 90) torch.float64: must be (2, 100)"),
    (BIAS, torch.zeros(2, 1).double(), f"{BIAS} is (2, 1) torch.float64: must be (2, 32)"),
    (BIAS, torch.zeros(3, 32).double(), f"{BIAS} is (3, 32) torch.float64: must be (2, 32)"),
    (BIAS, torch.zeros(2, 32), f"{BIAS} is (2, 32) torch.float32: must be (2, 32) torch.float64"),
    (BIAS, None, f"{BIAS} is NoneType: must be a tensor"),
    (BIAS, ABSENT, f"lacks {BIAS}, and has nothing that the stack does not know"),
    ("weights.other", torch.zeros(2), "lacks nothing, and has weights.other that the stack"),
    (MOMENT, torch.zeros(2, 1).double(), f"{MOMENT} is (2, 1) torch.float64: must be (2, 10)"),
]


def spoil(state: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a path such as weights.layers.0.bias, or take away what is there."""
    dicts_above = {"weights": 1, "state": 2}.get(path.split(".")[0], 0)
    *parents, leaf = path.split(".", dicts_above)
    for parent in parents:
        state = state[parent]
    if value is ABSENT:
        del state[leaf]
    else:
        state[leaf] = value


@pytest.mark.parametrize(("path", "value", "message"), SPOILT)
def test_a_state_that_does_not_fit_is_said_before_anything_is_copied(
    path: str, value: Any, message: str, splits: Splits
) -> None:
    state = copy.deepcopy(stack_of(build, seeds_of(0, 1), splits, train=3).state_dict())
    spoil(state, path, value)
    stack = stack_of(build, seeds_of(0, 1), splits)
    before = copy.deepcopy(stack.state_dict())
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        stack.load_state_dict(state)
    assert "\n" not in str(raised.value)
    assert stack.k == 0
    for name, weight in stack.state_dict()["weights"].items():
        assert torch.equal(weight, before["weights"][name])


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([0, 2], "members=[0, 2]: must be from 0 to 1"),
        ([-1, 0], "members=[-1, 0]: must be from 0 to 1"),
        ([0], "members: 1 of them: must be 2, as in the stack"),
    ],
)
def test_members_that_a_state_does_not_have_are_said(
    chosen: list[int], message: str, splits: Splits
) -> None:
    stack = stack_of(build, seeds_of(0, 1), splits)
    with pytest.raises(ValueError, match=re.escape(message)):
        stack.load_state_dict(copy.deepcopy(stack.state_dict()), chosen)
