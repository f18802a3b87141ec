"""mupl gives what PyPI's mup 1.0.0 (Yang et al.) gives, where both define the same."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupl

mup = pytest.importorskip("mup", reason="pip install mup==1.0.0")

BASE, MULTIPLIER = 8, 4
WIDTH = MULTIPLIER * BASE
CLASSES = 5

# theirs, ours, and the hyperparameters of both; mup leaves eps alone, so it must not matter
OPTIMIZERS: dict[str, tuple[Callable[..., Any], Any, dict[str, float]]] = {
    "sgd": (mup.MuSGD, torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.01}),
    "adam": (mup.MuAdam, torch.optim.Adam, {"lr": 0.01, "eps": 1e-30, "weight_decay": 0.01}),
    "adamw": (mup.MuAdamW, torch.optim.AdamW, {"lr": 0.01, "eps": 1e-30, "weight_decay": 0.1}),
}


class Tokens(nn.Module):
    """Predicts from the tokens (batch, L) of a sequence; `body` acts on their embeddings."""

    def __init__(self, width: int, body: nn.Module, readout: Any, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, width)
        self.body = body
        if not tied:
            self.readout = readout(width, CLASSES)
        elif readout is nn.Linear:
            self.readout = nn.Linear(width, CLASSES, bias=False)
            self.readout.weight = self.embedding.weight
        else:  # whose bias would have the size of the width
            self.readout = mup.MuSharedReadout(self.embedding.weight, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.body(self.embedding(tokens))
        h = h[0] if isinstance(h, tuple) else h.tanh()  # the states of a recurrent network
        return self.readout(h[:, -1])


def mlp(width: int, readout: Any = nn.Linear) -> nn.Module:
    layers = (nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 2 * width), nn.Tanh())
    return nn.Sequential(*layers, readout(2 * width, CLASSES))


def cnn(width: int, readout: Any = nn.Linear) -> nn.Module:
    layers = (nn.Conv2d(3, width, 3), nn.Tanh(), nn.Conv2d(width, 2 * width, 3), nn.Tanh())
    return nn.Sequential(*layers, nn.Flatten(), readout(2 * width * 4, CLASSES))


def gru(width: int, readout: Any = nn.Linear) -> nn.Module:
    return Tokens(width, nn.GRU(width, width, batch_first=True), readout, tied=False)


def tied(width: int, readout: Any = nn.Linear) -> nn.Module:
    return Tokens(width, nn.Linear(width, width), readout, tied=True)


SHAPES = {mlp: (6,), cnn: (3, 6, 6), gru: (), tied: ()}


def batch(build: Callable[..., nn.Module]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(CLASSES, (16, 4), generator=generator)
    x = torch.randn(16, *SHAPES[build], generator=generator, dtype=torch.float64)
    return (x if SHAPES[build] else tokens), tokens.sum(1) % CLASSES


def theirs(build: Callable[..., nn.Module], rescale: bool = False) -> nn.Module:
    """A model in mup's way, whose initial values are rescaled as mup does, or not."""

    def build_theirs(width: int) -> nn.Module:
        torch.manual_seed(0)
        return build(width, mup.MuReadout).double()

    base, delta = build_theirs(BASE), build_theirs(2 * BASE)
    return mup.set_base_shapes(build_theirs(WIDTH), base, delta=delta, rescale_params=rescale)


def ours(build: Callable[..., nn.Module], optimizer: str) -> tuple[nn.Module, dict[str, Any]]:
    _, kind, options = OPTIMIZERS[optimizer]
    infos = mupl.describe(build, WIDTH, BASE)
    scales = mupl.scale(infos, "mup", kind, **options)
    torch.manual_seed(0)
    return mupl.initialize_(build(WIDTH).double(), scales), scales


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> Tensor:
    found = []
    for x, target in batches:
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return torch.stack(found)


def by_tensor(model: nn.Module, groups: Any) -> Mapping[str, tuple[float, float]]:
    """Learning rate and weight decay of each tensor of a model."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            found[names[parameter]] = (group["lr"], group["weight_decay"])
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("build", SHAPES, ids=lambda build: build.__name__)
def test_param_groups_and_trajectories_are_those_of_mup(build: Any, optimizer: str) -> None:
    their_kind, kind, options = OPTIMIZERS[optimizer]
    model, scales = ours(build, optimizer)
    their_model = theirs(build)
    with torch.no_grad():
        for name, w in their_model.named_parameters():
            w.copy_(model.get_parameter(name))
    mine = kind(mupl.param_groups(model, scales), lr=options["lr"])
    their = their_kind(their_model.parameters(), **options)
    expected = by_tensor(their_model, their.param_groups)
    assert len(set(expected.values())) > 1
    found = by_tensor(model, mine.param_groups)
    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        assert found[name] == pytest.approx(numbers, rel=1e-14), name
    batches = [batch(build)] * 30
    their_losses = losses(their_model, their, batches)
    torch.testing.assert_close(losses(model, mine, batches), their_losses, atol=1e-12, rtol=0)
    assert their_losses[-1] < 0.99 * their_losses[0]


def test_initial_values_are_those_that_mup_rescales() -> None:
    """mup rescales the readout and biases of linear layers, from where torch makes them."""
    their_model = theirs(mlp, rescale=True)
    model, _ = ours(mlp, "adam")
    stock = copy.deepcopy(theirs(mlp)).state_dict()
    for name, w in their_model.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), w, atol=1e-15, rtol=1e-14)
    assert not torch.equal(their_model.get_parameter("4.weight"), stock["4.weight"])


@pytest.mark.parametrize("build", [mlp, cnn], ids=lambda build: build.__name__)
def test_mup_s_initialisers_draw_what_ours_draw(build: Any) -> None:
    """`mup.init.normal_(w, std)` has the std of `init={name: normal, std: ...}`."""
    init = {"*": {"name": "normal", "std": 0.5}}
    infos = mupl.describe(build, WIDTH, BASE, init=init)
    scales = mupl.scale(infos, "mup", "adam", lr=0.1)
    their_model = theirs(build)
    for name, w in their_model.named_parameters():
        torch.manual_seed(0)
        mup.init.normal_(w, std=0.5)
        torch.manual_seed(0)
        expected = scales[name].init(torch.empty_like(w))
        torch.testing.assert_close(w.detach(), expected, atol=0, rtol=1e-14)
