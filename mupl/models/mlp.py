"""A multi-layer perceptron that knows nothing of parametrizations."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.nn.layers import ScaledLinear, times

ACTIVATIONS = {"relu": F.relu, "sigmoid": F.sigmoid, "tanh": F.tanh, "gelu": F.gelu}


class MLP(nn.Module):
    """A multi-layer perceptron, from examples of any shape to logits.

    With x_0 = input_mult * x, hidden layer l is `x_l = activation(W_l x_(l-1) + b_l)`, and the
    logits are `output_mult * (V x_depth + c)`. Initialised in the standard parametrization:
    `W ~ N(0, init_std^2 / fan_in)`, biases 0.

    Args:
        in_features: numbers in one example.
        num_classes: number of logits.
        width: of every hidden layer, or a list of one width for each (then `depth` is its length).
        depth: number of hidden layers.
        bias: whether layers have biases.
        activation: "relu", "sigmoid", "tanh" or "gelu".
        input_mult: multiplies the input.
        output_mult: multiplies the logits.
        init_std: std of the weights times sqrt(fan_in).
        zero_readout: start the readout V at 0.

    Raises:
        ConfigError: naming the argument that is out of range.

    Example:
        >>> import torch
        >>> model = MLP(in_features=64, num_classes=10, width=[32, 16])
        >>> model(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    # Arguments in which the members of one stack may differ (see `mupl.stacked.stack`)
    per_member: ClassVar = ("init_std", "zero_readout", "input_mult", "output_mult")
    member_axis: ClassVar = True  # the parameters may have a leading member axis

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        width: int | Sequence[int],
        depth: int = 3,
        bias: bool = True,
        activation: str = "relu",
        input_mult: float = 1.0,
        output_mult: float = 1.0,
        init_std: float = 1.0,
        zero_readout: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(
                f"model.activation={activation}: must be one of {', '.join(ACTIVATIONS)}"
            )
        if depth < 1:
            raise ConfigError(f"depth={depth}: must be a whole number >= 1")
        if init_std < 0:
            raise ConfigError(f"model.init_std={init_std}: must be >= 0")
        widths = [width] * depth if isinstance(width, int) else list(width)
        if not widths or min(widths) < 1:
            raise ConfigError(f"width={width}: must be a whole number >= 1 or a list of them")

        self.layers = nn.ModuleList()
        fan_in = in_features
        for size in widths:
            self.layers.append(ScaledLinear(fan_in, size, bias))
            fan_in = size
        self.readout = ScaledLinear(fan_in, num_classes, bias)
        self.activation = ACTIVATIONS[activation]
        self.input_mult = input_mult
        self.output_mult = output_mult
        self.init_std = init_std
        self.zero_readout = zero_readout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in self.modules():
            if isinstance(layer, ScaledLinear):
                std = self.init_std
                if layer is self.readout and self.zero_readout:
                    std = 0.0
                layer.init_normal_(std / math.sqrt(layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ...) -> logits (N, num_classes).

        Of a stack of S members: x (G, N, ...), G a divisor of S -> (S, N, num_classes).
        """
        feature_dim = self.readout.weight.dim() - 1  # 1, or 2 in a stack, whose weights are 3-D
        h = times(self.input_mult, x.flatten(feature_dim))
        for layer in self.layers:
            h = self.activation(layer(h))
        return times(self.output_mult, self.readout(h))
