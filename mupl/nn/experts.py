"""Linear layers of several networks, such as experts, in one tensor."""

import torch
from torch import Tensor, nn

from mupl.nn.layers import stacked_linear


class ExpertLinear(nn.Module):
    """A linear layer of each of E experts: `y[e] = x[e] W[e]^T + b[e]`.

    W is (E, out, in) and b (E, out). So their names are the same for any number of experts, and
    that number may grow with width. By the attribute `num_experts` a description knows that the
    first dimension counts matrices, and vectors.

    Example:
        >>> layer = ExpertLinear(3, 4, 2)  # with weights from N(0, 1 / in)
        >>> layer(torch.zeros(1, 7, 4)).shape
        torch.Size([3, 7, 2])
    """

    def __init__(
        self, num_experts: int, in_features: int, out_features: int, bias: bool = False
    ) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(num_experts, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(num_experts, out_features)) if bias else None
        self.init_normal_(in_features**-0.5)

    def init_normal_(self, std: float) -> None:
        """Fill the weight from N(0, std^2) and the bias with 0."""
        nn.init.normal_(self.weight, std=std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (E, ..., in), or (1, ..., in) for all experts -> (E, ..., out).

        For a stack of S members: (S, E, ..., in) or (S, 1, ..., in) -> (S, E, ..., out).
        """
        if self.weight.dim() == 3:
            return stacked_linear(x, self.weight, self.bias)
        # members of a stack and experts are alike: one dimension for both
        bias = None if self.bias is None else self.bias.flatten(0, 1)
        y = stacked_linear(x.flatten(0, 1), self.weight.flatten(0, 1), bias)
        return y.unflatten(0, self.weight.shape[:2])

    def extra_repr(self) -> str:
        return (
            f"num_experts={self.num_experts}, in_features={self.in_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )
