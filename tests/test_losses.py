"""Losses refuse shapes that torch would broadcast, or of which a cross-entropy is 0."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupl
from mupl.data import Arrays
from mupl.stacked.stack import Stack
from mupl.training.losses import CheckedLoss, cross_entropy

ROWS = torch.randn(6, 1, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])


def by_hand(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def squeezing(output: Tensor, target: Tensor) -> Tensor:
    return by_hand(output.squeeze(-1), target)


def quantiles(output: Tensor, target: Tensor) -> Tensor:
    """The pinball loss of three quantiles (B, 3) of one number (B, 1)."""
    wanted = torch.tensor([0.1, 0.5, 0.9])
    error = target - output
    return torch.maximum(wanted * error, (wanted - 1) * error).mean()


# what is compared -> the loss, output, target, and what the error must say
WRONG = {
    "a column and a row by torch": (F.mse_loss, ROWS, ROWS[:, 0], "(6, 1) float32 and the target"),
    "a row and a column by torch": (F.l1_loss, ROWS[:, 0], ROWS, "targets (B, 1) by y[:, None]"),
    "three outputs for one number": (F.huber_loss, ROWS.expand(6, 3), ROWS, "give both one shape"),
    "a module": (nn.MSELoss(), ROWS, ROWS[:, 0], "it broadcasts them"),
    "a loss by hand": (by_hand, ROWS, ROWS[:, 0], "outputs are compared with targets of others"),
    "classes as numbers": (by_hand, ROWS, CLASSES, "for classes say loss=mupl"),
    "one class of torch": (F.cross_entropy, ROWS, ROWS, "say loss=torch.nn.functional.mse_loss"),
    "a row of torch": (F.cross_entropy, ROWS[:, 0], ROWS[:, 0], "of one class it is always 0"),
    "one class": (cross_entropy, ROWS, 0 * CLASSES, "of one class it is always 0"),
    "a row of outputs": (cross_entropy, ROWS[:, 0], ROWS[:, 0], "two or more classes"),
    "numbers for classes": (cross_entropy, ROWS.expand(6, 3), ROWS[:, 0], "takes classes, not"),
    "a column of classes": (
        cross_entropy,
        ROWS.expand(6, 3),
        CLASSES[:, None],
        "takes outputs (B, C) and classes (B,), not the model's output (6, 3)",
    ),
}
RIGHT = {
    "numbers": (F.mse_loss, ROWS, ROWS),
    "rows": (by_hand, ROWS[:, 0], ROWS[:, 0]),
    "a loss that squeezes": (squeezing, ROWS, ROWS[:, 0]),
    "several outputs for one number": (quantiles, ROWS.expand(6, 3), ROWS),
    "classes": (cross_entropy, ROWS.expand(6, 3), CLASSES),
    "tokens": (cross_entropy, ROWS.expand(6, 3).view(2, 3, 3), CLASSES.view(2, 3)),
    "probabilities": (F.cross_entropy, ROWS.expand(6, 3), ROWS.softmax(0).expand(6, 3)),
}


@pytest.mark.parametrize("case", WRONG)
def test_shapes_that_do_not_fit_are_one_error(case: str) -> None:
    loss, output, target, message = WRONG[case]
    with warnings.catch_warnings(action="error"), pytest.raises(mupl.ConfigError) as caught:
        CheckedLoss(loss)(output, target)
    assert message in str(caught.value)
    assert str(caught.value).startswith("loss: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", RIGHT)
def test_shapes_that_fit_give_the_value_of_the_loss(case: str) -> None:
    loss, output, target = RIGHT[case]
    checked = CheckedLoss(loss)
    for _ in range(2):  # the second time unchecked
        assert checked(output, target).equal(loss(output, target))


def test_each_pair_of_shapes_is_checked() -> None:
    """One example is no evidence: (1, 1) and (1,) are broadcast to (1, 1)."""
    loss = CheckedLoss(by_hand)
    loss(ROWS[:1], ROWS[:1, 0])
    with pytest.raises(mupl.ConfigError, match="broadcasts"):
        loss(ROWS, ROWS[:, 0])


class Told(nn.Sequential):
    """Tells one number of each example, without the last axis."""

    def __init__(self, width: int, **options: object) -> None:
        super().__init__(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(-1)


def in_a_loop(setup: mupl.Setup) -> None:
    setup.loss(setup.model(ROWS), ROWS)


def in_a_stack(setup: mupl.Setup) -> None:
    data = Arrays(ROWS, ROWS, ROWS, ROWS)
    Stack([setup, setup], data, batch_size=3, max_steps=1)


@pytest.mark.parametrize("use", [in_a_loop, in_a_stack])
@pytest.mark.parametrize("loss", [F.mse_loss, by_hand])
def test_every_engine_refuses_outputs_without_their_last_axis(
    use: Callable[[mupl.Setup], None], loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    setup = partial(mupl.Setup, Told, width=8, base_width=8, lr=0.1)
    with pytest.raises(mupl.ConfigError, match="it broadcasts them"):
        use(setup(loss=loss))
