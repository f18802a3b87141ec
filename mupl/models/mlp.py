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
    """`h_0 = input_mult * x`, `h_l = act(W_l h_{l-1} + b_l)`, `logits = output_mult * (V h_depth + c)`.

    Initialised in the standard parametrization: `W ~ N(0, init_std^2 / fan_in)`, biases 0.

    Args:
        in_features: features of an example; inputs of more dimensions are flattened.
        out_features: number of logits.
        width: of every hidden layer, or a list of one width for each (then `depth` is its length).
        depth: number of hidden layers.
        bias: whether layers have biases.
        activation: "relu", "sigmoid", "tanh" or "gelu".
        input_mult, output_mult: tunable multipliers of the input and of the logits.
        init_std: std of the weights times sqrt(fan_in).
        zero_readout: start the readout V at 0.

    Raises:
        ConfigError: naming the argument that is out of range.
    """

    # Of the arguments, those in which the members of one stack may differ (see `mupl.stacked.stack`)
    per_member: ClassVar = ("init_std", "zero_readout", "input_mult", "output_mult")
    member_axis: ClassVar = True  # the parameters may have a leading member axis

    def __init__(
        self,
        in_features: int,
        out_features: int,
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
        sizes = [in_features, *widths]
        self.layers = nn.ModuleList(
            ScaledLinear(n, m, bias) for n, m in zip(sizes, widths, strict=False)
        )
        self.readout = ScaledLinear(widths[-1], out_features, bias)
        self.activation = ACTIVATIONS[activation]
        self.input_mult, self.output_mult = input_mult, output_mult
        self.init_std, self.zero_readout = init_std, zero_readout
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for layer in (*self.layers, self.readout):
            std = 0 if layer is self.readout and self.zero_readout else self.init_std
            layer.init_normal_(std / math.sqrt(layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, ...) -> logits (N, out_features); of a stack (S, N, ...) -> (S, N, out_features)."""
        x = x.flatten(self.readout.weight.dim() - 1)
        h = times(self.input_mult, x)
        for layer in self.layers:
            h = self.activation(layer(h))
        return times(self.output_mult, self.readout(h))
