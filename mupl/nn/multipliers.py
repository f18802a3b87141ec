"""Numbers in a model that are no tensors, but that a parametrization sets: each has a row in the rule tables."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.nn.layers import stacked_linear, times


class Multiplier(nn.Module):
    """`value * x`; the row `role` of a rule table multiplies that which it has in the model of the base size.

    Args:
        role: "attention" (of queries, and so of logits q.k), "residual" (of a branch) or "tied" (of a readout by the
            embedding).
        value: in the standard parametrization, at this model's size.
        fan_in: number of terms of the sum that it scales, from which m_in follows.

    In a stack whose members have different values, `value` is (S,) and x is (S, ...).
    """

    per_member: ClassVar = ("value",)
    value: Any

    def __init__(self, role: str, value: float = 1.0, fan_in: int = 1) -> None:
        super().__init__()
        self.role, self.value, self.fan_in = role, value, fan_in

    def forward(self, x: Tensor) -> Tensor:
        return times(self.value, x)

    def extra_repr(self) -> str:
        return f"{self.role}, value={self.value}"


class Residual(Multiplier):
    """`x + value * branch(x)`, of the shape of x."""

    def __init__(self, value: float = 1.0) -> None:
        super().__init__("residual", value)

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:  # type: ignore[override]
        y = branch(x)
        return (
            x + times(self.value, y)
            if isinstance(self.value, Tensor)
            else torch.add(x, y, alpha=self.value)
        )


class TiedReadout(Multiplier):
    """`value * x W^T` with the matrix W (out, width) of an embedding.

    `value = width^-1/2` makes logits of order 1 where W ~ N(0, 1). The embedding's row says how W is
    drawn and trained; see `mupl.parametrization.rules.tied_rule`.
    """

    def __init__(self, width: int) -> None:
        super().__init__("tied", width**-0.5, fan_in=width)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """x: (..., width) -> (..., out); of a stack x (S, ..., width), W (S, out, width) -> (S, ..., out)."""
        x = times(self.value, x)
        return F.linear(x, weight) if weight.dim() == 2 else stacked_linear(x, weight)
