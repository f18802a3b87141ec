"""Numbers in a model that are no tensors, but that a parametrization sets by a row of its table."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.nn.layers import stacked_linear, times
from mupl.roles import MultiplierRole


class Multiplier(nn.Module):
    """Multiply by a number: `value * x`.

    A parametrization multiplies the value of the model of the base size by the cell `mult` in the
    row `role` of its table. In a stack whose members have different values, `value` is (S,) and
    x is (S, ...).

    Args:
        role: "attention" (queries, and so logits q.k), "residual" (a branch) or "tied" (the logits
            of a readout by the embedding).
        value: in the standard parametrization, at this model's size.
        fan_in: number of terms of the sum that it scales, from which m_in follows.

    Example:
        >>> Multiplier("attention", value=0.25, fan_in=16)
        Multiplier(attention, value=0.25)
    """

    per_member: ClassVar = ("value",)
    value: Any

    def __init__(self, role: str, value: float = 1.0, fan_in: int = 1) -> None:
        super().__init__()
        self.multiplier_role = MultiplierRole(role)  # by this `mupl.roles.multipliers` finds it
        self.value = value
        self.fan_in = fan_in

    def forward(self, x: Tensor) -> Tensor:
        return times(self.value, x)

    def extra_repr(self) -> str:
        return f"{self.multiplier_role}, value={self.value}"


class Residual(Multiplier):
    """Add a branch to the residual stream: `x + value * branch(x)`, of the shape of x.

    A module with a `Residual` may say `last_of_branch = {name of the Residual: path of the layer
    that makes the branch's output}`; into that layer `Setup.fold` multiplies the value.
    """

    def __init__(self, value: float = 1.0) -> None:
        super().__init__("residual", value)

    def forward(  # type: ignore[override]
        self, x: Tensor, branch: Callable[[Tensor], Tensor]
    ) -> Tensor:
        y = branch(x)
        if isinstance(self.value, Tensor):
            return x + times(self.value, y)
        return torch.add(x, y, alpha=self.value)


class TiedReadout(Multiplier):
    """Read out by the matrix W (out, width) of an embedding: `value * x W^T`.

    `value = width^-1/2` makes logits of order 1 where W ~ N(0, 1). The embedding's row says how W
    is drawn and trained; see `mupl.parametrization.scales.tied_rule`.
    """

    def __init__(self, width: int) -> None:
        super().__init__("tied", width**-0.5, fan_in=width)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        """x (..., width) -> (..., out); in a stack x (S, ..., width), W (S, out, width)."""
        x = times(self.value, x)
        if weight.dim() == 3:
            return stacked_linear(x, weight)
        return F.linear(x, weight)
