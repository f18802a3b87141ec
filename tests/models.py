"""Models and data that only tests want."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mupl.data import Splits, digits


def burning(root: str | None) -> Splits:
    raise OSError("the disk is on fire")


def keyless(root: str | None) -> Splits:
    return {}["x"]


def digits_of(root: str | None) -> Splits:
    """The digits, if there is no file `broken` in root."""
    return burning(root) if root is not None and (Path(root) / "broken").exists() else digits()


class Convolution(nn.Module):
    """Asks the data for the number of channels, not for the number of features."""

    def __init__(self, in_channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, width, 3)
        self.readout = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.convolution(x).relu().mean((-2, -1)))


class Unclassifiable(nn.Module):
    """Has a matrix that is no layer's weight."""

    def __init__(self, in_features: int, num_classes: int, width: int, **options: object) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(3, width))
        self.head = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class Linear(nn.Module):
    """A readout of the features; and what else a config may say."""

    def __init__(self, in_features: int, num_classes: int, width: int, **options: object) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_features, width)
        self.readout = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.hidden(x.flatten(1)))


class Ranked(Linear):
    """Asks for a number that neither the data nor the config have."""

    def __init__(self, rank: int, **arguments: int) -> None:
        super().__init__(**arguments)


class Unfitting(Linear):
    """Has a hidden layer that takes other features than it is given, but for width 16."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.hidden.out_features == 16 else x[..., :5])


class Sizeless(nn.Linear):
    """Has one size only."""

    def __init__(self, in_features: int, num_classes: int, bias: bool = True) -> None:
        super().__init__(in_features, num_classes, bias)


class Masked(Linear):
    """Asks for a mask beside the examples."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


class OfManyExamples(Linear):
    """Refuses fewer examples than four."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 4:
            raise ValueError("too few examples")
        return super().forward(x)


def broken(width: int) -> nn.Module:
    return nn.Linear(8, width) + None


def gpt2(width: int) -> nn.Module:
    """The model of transformers with tied embeddings; a test is skipped where that is missing."""
    from tests.foreign import gpt2

    return gpt2(width, d_head=8, use_cache=False)


def convolution(width: int) -> nn.Module:
    """Takes what no first layer tells: images of some size."""
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(4 * width, 2))


def perceptron(width: int) -> nn.Module:
    layers = [nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 3, bias=False))


def dicts() -> list[dict[str, Tensor]]:
    """Batches of another kind than (x, target)."""
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(16, 8, generator=generator) for _ in range(3)]
    return [{"inputs": inputs, "classes": inputs[:, :3].argmax(1)} for inputs in x]


def loss_of_dict(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["classes"])
