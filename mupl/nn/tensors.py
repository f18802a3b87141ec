"""The tensors of a model, by name."""

import re
from collections.abc import Mapping

from torch import nn

from mupl.parametrization.scales import Scale

# What torch puts into a parameter's name when a model is compiled or wrapped
_WRAPPED = re.compile(r"\b_orig_mod\.|^module\.")


def parameters(model: nn.Module, scales: Mapping[str, Scale]) -> dict[str, nn.Parameter]:
    """Return the parameters `w` that have scales; the others are of multipliers."""
    modules = dict(model.named_modules())
    found = {}
    for name, scale in scales.items():
        if name not in modules and scale.insertion is None:
            module, leaf = owner(model, name)
            found[name] = module.get_parameter(leaf)
    return found


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that has an attribute such as a parameter, and the attribute's own name."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def plain_name(name: str, scales: Mapping[str, Scale]) -> str:
    """Return the name that a parameter has in the model of the scales, without what wraps that.

    The model itself may have a part `module` or a compiled one. Its names have scales, or are of a
    tied readout, whose module has one.
    """
    while name not in scales and name.rpartition(".")[0] not in scales:
        inner = _WRAPPED.sub("", name, count=1)
        if inner == name:
            break
        name = inner
    return name
