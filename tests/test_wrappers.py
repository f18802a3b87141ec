"""Whatever users do to a model and to its training keeps the parametrization."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

import mupl
from mupl.initializers import default_dtype
from mupl.models import GPT, MLP
from tests.changes import COPIES, TRACED, Function
from tests.models import gpt2

STEPS = 4
TOKENS = torch.arange(32).view(4, 8) % 11


class Recurrent(nn.Module):
    """Predicts the next token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.readout = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.lstm(self.embedding(tokens))[0])


class Images(nn.Sequential):
    """Tells one number from others by our MLP."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Embedding(11, 6), MLP(8 * 6, 11, width))


def gpt(width: int) -> nn.Module:
    return GPT(11, 8, width, depth=1, d_head=8, tied=True)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "gpt2": gpt2,
    "lstm": Recurrent,
    "mlp": Images,
    "gpt": gpt,
}


def setup_of(name: str) -> mupl.Setup:
    """A model of four times the base width, in float64."""
    with default_dtype(torch.float64):
        return mupl.Setup(MODELS[name], 64, base_width=16, lr=0.01, optimizer="adamw")


def logits(output: Any) -> Tensor:
    return getattr(output, "logits", output)


def distance(found: Tensor, expected: Tensor) -> float:
    """The relative one, by which a multiplier of 1/4 that is lost counts 3."""
    expected = expected.double()
    return ((found.double() - expected).norm() / expected.norm()).item()


# What is made of a model: it must be the same function


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which torch.compile looks at
@pytest.mark.parametrize("change", [*COPIES, *TRACED], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_changed_model_is_the_same_function(name: str, change: Any) -> None:
    model = setup_of(name).model.eval()
    expected = logits(model(TOKENS))
    assert distance(logits(change(model, TOKENS)(TOKENS)), expected) < 1e-12


# How a model is trained: it must learn the same


def loss_of(function: Function, tokens: Tensor = TOKENS) -> Tensor:
    output = logits(function(tokens))
    targets = (tokens * tokens + 1) % 11
    if output.dim() == 2:  # one prediction for all tokens
        targets = targets[:, 0]
    return F.cross_entropy(output.flatten(0, -2), targets.flatten())


def plain(model: nn.Module, optimizer: Optimizer) -> None:
    loss_of(model).backward()
    optimizer.step()


def activation_checkpointing(model: nn.Module, optimizer: Optimizer) -> None:
    loss_of(lambda x: checkpoint(model, x, use_reentrant=False)).backward()
    optimizer.step()


def accumulation(model: nn.Module, optimizer: Optimizer) -> None:
    for part in TOKENS.split(2):
        (loss_of(model, part) / 2).backward()
    optimizer.step()


def clipping(model: nn.Module, optimizer: Optimizer) -> None:
    """By a norm so large that it does nothing."""
    loss_of(model).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e6)
    optimizer.step()


def autocast(model: nn.Module, optimizer: Optimizer) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model.float())
    loss.backward()
    optimizer.step()


def bfloat16(model: nn.Module, optimizer: Optimizer) -> None:
    plain(model.bfloat16(), optimizer)


def float16_with_a_scaler(model: nn.Module, optimizer: Optimizer) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    with torch.autocast("cpu", torch.float16):
        loss = loss_of(model.float())
    scaler.scale(loss).backward()
    scaler.step(optimizer)


STEP_KINDS: dict[Callable[[nn.Module, Optimizer], None], float] = {
    activation_checkpointing: 1e-12,
    accumulation: 1e-9,
    clipping: 1e-12,
    autocast: 0.4,
    bfloat16: 0.4,
    float16_with_a_scaler: 0.4,
}


def trained(name: str, step: Callable[[nn.Module, Optimizer], None]) -> Tensor:
    """Logits after some steps."""
    if name == "lstm" and step is float16_with_a_scaler:
        pytest.skip("torch has no LSTM in float16 on a CPU")
    setup = setup_of(name)
    optimizer = setup.optimizer()
    for _ in range(STEPS):
        step(setup.model, optimizer)
        optimizer.zero_grad()
    return logits(setup.model(TOKENS)).detach()


@pytest.mark.parametrize("step", STEP_KINDS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_trained_otherwise_learns_the_same(name: str, step: Any) -> None:
    expected = trained(name, plain)
    start = logits(setup_of(name).model(TOKENS))
    assert distance(start, expected) > 0.5  # it does learn
    assert distance(trained(name, step), expected) < STEP_KINDS[step]


# What is around a model: names of parameters change


class Around(nn.Module):
    """Calls the model in it `module`, as wrappers of torch do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tokens: Tensor) -> Tensor:
        return self.module(tokens)


def compiled(model: nn.Module) -> Any:
    return torch.compile(model)


@pytest.mark.parametrize(
    ("inside", "around"),
    [
        (Around, ()),
        (compiled, ()),
        (Around, (Around,)),
        (Around, (compiled,)),
        (compiled, (Around,)),
        (Around, (Around, compiled)),
        (Around, (compiled, Around)),
        (nn.Sequential, (Around, compiled)),  # as of DistributedDataParallel that is compiled
    ],
    ids=lambda wrappers: getattr(wrappers, "__name__", None) or f"{len(wrappers)}",
)
def test_names_of_wrappers_are_known_within_the_function_and_around_it(
    inside: Any, around: Any
) -> None:
    setup = mupl.Setup(lambda width: inside(gpt(width)), 64, base_width=16, lr=0.01)
    model = setup.model
    for wrapper in around:
        model = wrapper(model)
    expected = torch.optim.AdamW(mupl.param_groups(setup.model, setup.scales))
    optimizer = torch.optim.AdamW(mupl.param_groups(model, setup.scales))
    rates = [[group["lr"], len(group["params"])] for group in optimizer.param_groups]
    assert rates == [[group["lr"], len(group["params"])] for group in expected.param_groups]
    logits(setup.model(TOKENS)).sum().backward()
    optimizer.step()
