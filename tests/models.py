"""Models that only tests want."""

import torch
from torch import Tensor, nn


class Unclassifiable(nn.Module):
    """Has a matrix that is no layer's weight."""

    def __init__(self, in_features: int, out_features: int, width: int, **options: object) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(3, width))
        self.head = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))
