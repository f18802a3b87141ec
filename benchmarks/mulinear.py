"""A `MuLinear` beside an `nn.Linear`, and beside a layer with naive multipliers.

    python benchmarks/mulinear.py

The naive layer multiplies its whole weight in every forward pass and its whole gradient in a hook;
`MuLinear` puts both factors into the scalar of the matrix products. Compared are a training step
(forward, cross-entropy, backward, AdamW) of three square layers with ReLU between them, and forward
and backward of one layer alone. All layers are hidden ones at four times their base width, so no
factor is 1. The second nn.Linear shows the error of the measurement.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import add_rows, alternate, new_table, show
from torch import Tensor, nn

from mupl.nn.mulinear import MuLinear

# seconds of measuring, by width, for each batch size; half as long for a layer alone
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


Make = Callable[[Callable[[int], nn.Linear], int, int], Callable[[], None]]
LAYERS: dict[str, Callable[[int], nn.Linear]] = {
    "nn.Linear": lambda n: nn.Linear(n, n),
    "nn.Linear again": lambda n: nn.Linear(n, n),
    "MuLinear": lambda n: MuLinear(n, n, base_width=n // 4),
    "naive": lambda n: NaiveMuLinear(n, 4),
}


def training_step(layer: Callable[[int], nn.Linear], width: int, batch: int) -> Callable[[], None]:
    hidden = layer(width)
    model = nn.Sequential(layer(width), nn.ReLU(), hidden, nn.ReLU(), layer(width))
    # an lr of 0 makes the same work, and gradients that stay as they are
    optimizer = torch.optim.AdamW(model.parameters(), lr=0)
    x = torch.randn(batch, width)
    target = torch.randint(width, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    return step


def layer_alone(layer: Callable[[int], nn.Linear], width: int, batch: int) -> Callable[[], None]:
    module = layer(width)
    x = torch.randn(batch, width, requires_grad=True)
    gradient = torch.randn(batch, width)

    def step() -> None:
        x.grad = None
        module.zero_grad()
        module(x).backward(gradient)

    return step


def compare(title: str, make: Make, seconds: dict[int, float], target: float | None) -> None:
    """Print a table of all widths and batch sizes; `seconds` is how long to measure, by width."""
    table = new_table(title)
    targets = None if target is None else {"MuLinear": target}
    for width in seconds:
        for batch in BATCHES:
            makers = {}
            for name, layer in LAYERS.items():
                makers[name] = partial(make, layer, width, batch)
            times = alternate(makers, seconds[width])
            label = f"width {width}, batch {batch}"
            add_rows(table, label, times, "nn.Linear", targets)
    show(table)


def main() -> None:
    compare("Training step of three layers", training_step, SECONDS, TARGET)
    half = {width: seconds / 2 for width, seconds in SECONDS.items()}
    compare("Forward and backward of one layer", layer_alone, half, None)


if __name__ == "__main__":
    main()
