"""Multipliers in models that have no module for them: of attention logits, of residual branches."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from mupl.nn.scaled_parameters import (
    QUERIES,
    HeldMultiplier,
    ScaledQueries,
    use_scaled_parameters,
)
from mupl.parametrization.scales import Scale
from mupl.roles import Insertion, InsertionKind

OUTPUT = "output_scale"  # name of the `ScaledOutput` of a module
ATTRIBUTE = "attention_scale"  # name of the `ScaledAttribute` of a module


class ScaledOutput(HeldMultiplier):
    """Says by what its parent's output is multiplied; of a tuple by what its first entry is.

    Args:
        mult: the number.
        size: how many of the first features it multiplies; None: all.
    """

    multiplies: ClassVar = "an output"

    def __init__(self, mult: float, size: int | None = None) -> None:
        super().__init__(mult)
        self.size = size

    def scale(self, output: Any) -> Any:
        """Return the output, multiplied."""
        if isinstance(output, tuple):
            return (self.scale(output[0]), *output[1:])
        if self.size is None:
            return self.mult * output
        first, rest = output.tensor_split([self.size], -1)
        return torch.cat([self.mult * first, rest], -1)


class ScaledAttribute(HeldMultiplier):
    """Keeps the number by which its parent multiplies attention logits, an attribute of it.

    Args:
        mult: the number that was set.
        attribute: its name in the parent.
        own: the number that the parent had before.
    """

    multiplies: ClassVar = "attention logits"

    def __init__(self, mult: float, attribute: str, own: float) -> None:
        super().__init__(mult)
        self.attribute = attribute
        self.own = own


def insert_(model: nn.Module, scales: Mapping[str, Scale]) -> None:
    """Put the multipliers of insertions into a model, in place of earlier ones.

    A multiplier that the model has by itself, as at the base width, leaves nothing in it.
    """
    for scale in scales.values():
        insertion = scale.insertion
        if insertion is None:
            continue
        module = model.get_submodule(insertion.module)
        if insertion.kind is InsertionKind.ATTRIBUTE:
            _set_attribute(module, insertion, scale)
        elif insertion.kind is InsertionKind.OUTPUT:
            _hold(module, OUTPUT, ScaledOutput(scale.inserted, insertion.size))
            if _scale_output not in module._forward_hooks.values():
                module.register_forward_hook(_scale_output)
        elif insertion.kind is InsertionKind.IN_PROJECTION:
            _hold(module, QUERIES, ScaledQueries(scale.inserted))
            use_scaled_parameters(module)


def inserted(model: nn.Module, insertion: Insertion) -> float:
    """Return by what an insertion multiplies in a model, beside what that does itself."""
    module = model.get_submodule(insertion.module)
    name = OUTPUT if insertion.kind is InsertionKind.OUTPUT else ATTRIBUTE
    held = module._modules.get(name)
    if isinstance(held, ScaledAttribute):
        return held.mult / held.own
    return held.mult if isinstance(held, HeldMultiplier) else 1.0


def _set_attribute(module: nn.Module, insertion: Insertion, scale: Scale) -> None:
    mult = scale.mult if scale.inserted != 1 else insertion.own
    setattr(module, insertion.attribute, mult)
    _hold(module, ATTRIBUTE, ScaledAttribute(mult, insertion.attribute, insertion.own))


def _hold(module: nn.Module, name: str, held: HeldMultiplier) -> None:
    """Make a multiplier the child of a module, or take it away if it multiplies by 1."""
    module._modules.pop(name, None)
    own = held.own if isinstance(held, ScaledAttribute) else 1.0
    if held.mult != own:
        module.add_module(name, held)


def _scale_output(module: nn.Module, args: tuple, output: Any) -> Any:
    """After a forward pass, multiply what it returned.

    The hook is a function of this module, so that a model can be copied and pickled.
    """
    held = module._modules.get(OUTPUT)
    return held.scale(output) if isinstance(held, ScaledOutput) else output


def remove_output_hook(module: nn.Module) -> None:
    """Take away the hook that multiplies a module's output."""
    for key, hook in list(module._forward_hooks.items()):
        if hook is _scale_output:
            del module._forward_hooks[key]
