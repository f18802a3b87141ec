"""Models and data that only tests want."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mupl.data import Splits, digits


def burning(root: str | None) -> Splits:
    raise OSError("the disk is on fire")


def digits_of(root: str | None) -> Splits:
    """The digits, if there is no file `broken` in root."""
    return burning(root) if root is not None and (Path(root) / "broken").exists() else digits()


class Unclassifiable(nn.Module):
    """Has a matrix that is no layer's weight."""

    def __init__(self, in_features: int, out_features: int, width: int, **options: object) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(3, width))
        self.head = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))
