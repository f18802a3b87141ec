"""A linear layer that is its own parametrization: right under a stock optimizer with one learning rate."""

import math

import torch

from mupl.nn.layers import ScaledLinear
from mupl.parametrization.rules import get_parametrization
from mupl.roles import Role


class MuLinear(ScaledLinear):
    """Linear layer in the abcd-parametrization, with `n` the fan that grows and `n0 = base_width`.

    `W = mult * w` with `mult = sqrt(lr_scale) (n0/n)^a`, `w ~ N(0, (init_std^2 / base fan_in) (n0/n)^(2b) / lr_scale)`,
    gradient of `w` multiplied by `(n/n0)^d`; exponents from the table `mulinear`. At width n0 with `lr_scale=1` it is
    a plain linear layer. The bias starts at 0.

    Args:
        role: "input" (only out_features grows with width), "hidden" (both) or "output" (only in_features).
        base_width: the width n0 at which lr, eps and weight decay were tuned.
        update_kind: update kind of the optimizer, "sgd" or "adam" (Adam, AdamW, ...).
        lr_scale: alpha, this layer's own learning-rate factor (under Adam its square root).
        init_std: weights have std `init_std / sqrt(base fan_in)` at the base width.

    Raises:
        ValueError: on an unknown role; ConfigError on an unsupported update_kind.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        role: str = "hidden",
        base_width: int,
        update_kind: str = "adam",
        lr_scale: float = 1.0,
        init_std: float = 1.0,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        weight_role = Role(role)
        m_in = 1.0 if weight_role is Role.INPUT else in_features / base_width
        m_out = 1.0 if weight_role is Role.OUTPUT else out_features / base_width
        table = get_parametrization("mulinear")
        std = init_std / math.sqrt(in_features / m_in)
        symbols = {"m_in": m_in, "m_out": m_out, "alpha": lr_scale}
        weight_rule = table.rule(update_kind, weight_role)
        bias_rule = table.rule(
            update_kind, Role.SCALAR if weight_role is Role.OUTPUT else Role.INPUT
        )
        self.set_scale("weight", weight_rule.mult(**symbols), weight_rule.grad(**symbols))
        self.set_scale("bias", bias_rule.mult(**symbols), bias_rule.grad(**symbols))
        with torch.no_grad():
            self.weight.normal_(0, std * weight_rule.init(**symbols))
            if bias:
                self.bias.zero_()
