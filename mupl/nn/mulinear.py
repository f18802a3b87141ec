"""A linear layer that is its own parametrization: right under a stock optimizer with one lr."""

import math

from mupl.errors import ConfigError
from mupl.nn.layers import ScaledLinear
from mupl.parametrization.rules import get_parametrization
from mupl.roles import Role

ROLES = (Role.INPUT, Role.HIDDEN, Role.OUTPUT)


class MuLinear(ScaledLinear):
    """Linear layer in the abcd-parametrization, with `n` the fan that grows and `n0 = base_width`.

    `W = mult * w` with `mult = sqrt(lr_scale) (n0/n)^a`, `w ~ N(0, std^2)` with
    `std = init_std / sqrt(base fan_in) (n0/n)^b / sqrt(lr_scale)`, and the gradient of `w` is
    multiplied by `(n/n0)^d`. The table `mulinear` has the exponents. At width n0 with
    `lr_scale=1` it is a plain linear layer. The bias starts at 0.

    Args:
        role: "input" (only out_features grows with width), "hidden" (both) or "output" (only
            in_features).
        base_width: the width n0 at which lr, eps and weight decay were tuned.
        update_kind: "sgd" or "adam" (Adam, AdamW, ...): how the optimizer's updates scale.
        lr_scale: alpha, this layer's own learning-rate factor (under Adam its square root).
        init_std: weights have std `init_std / sqrt(base fan_in)` at the base width.

    Raises:
        ConfigError: on an unknown role or an update kind that is not supported.

    Example:
        >>> MuLinear(512, 10, role="output", base_width=128)
        MuLinear(
          in_features=512, out_features=10, bias=True
          (weight_scale): ScaledParameter(mult=0.25, grad=4)
        )
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
        if role not in ROLES:
            raise ConfigError(f"role={role}: must be one of {', '.join(ROLES)}")
        symbols = {"m_in": 1.0, "m_out": 1.0, "alpha": lr_scale}
        if role != Role.INPUT:
            symbols["m_in"] = in_features / base_width
        if role != Role.OUTPUT:
            symbols["m_out"] = out_features / base_width
        bias_role = Role.SCALAR if role == Role.OUTPUT else Role.INPUT
        table = get_parametrization("mulinear")
        weight_rule = table.rule(update_kind, role)
        bias_rule = table.rule(update_kind, bias_role)
        if weight_rule.lr.exponents:  # which a layer cannot set
            raise ConfigError(f"update_kind={update_kind}: must be one of {', '.join(table.rules)}")
        self.set_scale("weight", weight_rule.mult(**symbols), weight_rule.grad(**symbols))
        self.set_scale("bias", bias_rule.mult(**symbols), bias_rule.grad(**symbols))
        base_std = init_std / math.sqrt(in_features / symbols["m_in"])
        self.init_normal_(base_std * weight_rule.init(**symbols))
