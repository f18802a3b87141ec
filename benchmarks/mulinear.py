"""A `MuLinear` beside an `nn.Linear`, and beside the naive way to give a layer a multiplier and a gradient factor.

    python benchmarks/mulinear.py

The naive layer multiplies its whole weight in every forward pass and its whole gradient in a hook; `MuLinear` puts both
factors into the scalar of the matrix products. Compared are a training step (forward, cross-entropy, backward, AdamW)
of three square layers with ReLU between them, and forward and backward of one layer alone. All layers are hidden ones
at four times their base width, so no factor is 1. The second nn.Linear shows the error of the measurement.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import add_rows, alternate, new_table, show
from torch import Tensor, nn

from mupl.nn.mulinear import MuLinear

# Of measuring, by width, for each batch size; half as long for a layer alone
SECONDS = {128: 5.0, 512: 6.0, 2048: 12.0}
BATCHES = (512, 256, 64)
TARGET = 1.05


class NaiveMuLinear(nn.Linear):
    """The same layer as MuLinear under Adam, written without care."""

    def __init__(self, width: int, m: float) -> None:
        super().__init__(width, width)
        self.mult = 1 / m
        self.weight.register_hook(lambda g: g * m**2)
        self.bias.register_hook(lambda g: g * m)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mult * self.weight, self.bias)


LAYERS: dict[str, Callable[[int], nn.Linear]] = {
    "nn.Linear": lambda n: nn.Linear(n, n),
    "nn.Linear again": lambda n: nn.Linear(n, n),
    "MuLinear": lambda n: MuLinear(n, n, base_width=n // 4),
    "naive": lambda n: NaiveMuLinear(n, 4),
}


def training_step(layer: Callable[[int], nn.Linear], width: int, batch: int) -> Callable[[], None]:
    model = nn.Sequential(layer(width), nn.ReLU(), layer(width), nn.ReLU(), layer(width))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0
    )  # the same work, and gradients that stay as they are
    x, target = torch.randn(batch, width), torch.randint(width, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    return step


def layer_alone(layer: Callable[[int], nn.Linear], width: int, batch: int) -> Callable[[], None]:
    module = layer(width)
    x, g = torch.randn(batch, width, requires_grad=True), torch.randn(batch, width)

    def step() -> None:
        x.grad = module.weight.grad = module.bias.grad = None
        module(x).backward(g)

    return step


def main() -> None:
    for title, make, targets, share in (
        ("Training step of three layers", training_step, {"MuLinear": TARGET}, 1),
        ("Forward and backward of one layer", layer_alone, None, 0.5),
    ):
        table = new_table(title)
        for width, seconds in SECONDS.items():
            for batch in BATCHES:
                makers = {
                    name: partial(make, layer, width, batch) for name, layer in LAYERS.items()
                }
                times = alternate(makers, share * seconds)
                add_rows(table, f"width {width}, batch {batch}", times, "nn.Linear", targets)
        show(table)


if __name__ == "__main__":
    main()
