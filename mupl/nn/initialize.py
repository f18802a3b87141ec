"""Putting a parametrization into a module: its initial weights and its multipliers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mupl.nn.layers import ScaledLinear, scaled
from mupl.nn.multipliers import Multiplier
from mupl.parametrization.rules import Scale


def initialize_(
    model: nn.Module, scales: Mapping[str, Scale], generator: torch.Generator | None = None
) -> nn.Module:
    """Draw every parameter anew and set its multiplier, gradient factor, and every `Multiplier`; returns the module.

    Tensors are drawn in the order of `scales`, on the CPU, so one seed gives one network on every device and the same
    standard normals under every parametrization. Our `ScaledLinear` holds its multiplier and applies it to activations;
    in any other module a tensor with multiplier != 1 becomes `W = mult * w` by `torch.nn.utils.parametrize` (its
    parameter is then called `parametrizations.NAME.original`). Applying again replaces what was set before. A module on
    the meta device, which has no values, gets its multipliers only.
    """
    factors = _factors(model)
    for name, scale in scales.items():
        if name in factors:
            factors[name].value = scale.mult
        else:
            _set_multiplier(*owner(model, name), scale.mult, scale.grad)
    for name, w in parameters(model, scales).items():
        if not w.is_meta:
            with torch.no_grad():
                w.copy_(draw(scales[name], w.shape, w.dtype, generator))
    return model


def draw(
    scale: Scale, shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator | None = None
) -> Tensor:
    """The initial `w` of one tensor, on the CPU."""
    return scale.init(torch.empty(shape, dtype=dtype, device="cpu"), generator)


def parameters(model: nn.Module, names: Mapping[str, object]) -> dict[str, nn.Parameter]:
    """The parameters `w` among `names`, by the names that they had before any multiplier was set."""
    factors = _factors(model)
    return {name: _original(*owner(model, name)) for name in names if name not in factors}


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has an attribute, such as a parameter, and the attribute's own name."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _original(module: nn.Module, leaf: str) -> nn.Parameter:
    """The parameter `w` that the optimizer sees, whether or not a multiplier stands between it and the module."""
    parametrized = parametrize.is_parametrized(module, leaf)
    return module.get_parameter(f"parametrizations.{leaf}.original" if parametrized else leaf)


def _factors(model: nn.Module) -> dict[str, Multiplier]:
    return {
        name: module for name, module in model.named_modules() if isinstance(module, Multiplier)
    }


class ScaledParameter(nn.Module):
    """`w -> mult * w`, with the gradient of `w` multiplied by `grad`."""

    def __init__(self, mult: float, grad: float) -> None:
        super().__init__()
        self.mult, self.grad = mult, grad

    def forward(self, w: Tensor) -> Tensor:
        if self.grad == 1:
            return self.mult * w
        return scaled(w, self.mult, self.mult * self.grad)


def _set_multiplier(module: nn.Module, leaf: str, mult: float, grad: float) -> None:
    if isinstance(module, ScaledLinear):
        module.set_scale(leaf, mult, grad)
        return
    if parametrize.is_parametrized(module, leaf):
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
    if (mult, grad) != (1.0, 1.0):
        parametrize.register_parametrization(module, leaf, ScaledParameter(mult, grad), unsafe=True)
