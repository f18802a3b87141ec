"""Putting a parametrization into a module: its initial weights and its multipliers."""

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, SupportsIndex

import torch
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.nn.dropout import seed_dropout
from mupl.nn.insertions import insert_
from mupl.nn.layers import ScaledLinear
from mupl.nn.scaled_parameters import SUFFIX, held_scale, hold_scale, use_scaled_parameters
from mupl.nn.tensors import owner, parameters, plain_name
from mupl.nn.values import check_drawable, set_values
from mupl.parametrization.scales import Scale, check_scales
from mupl.roles import multipliers


def initialize_(
    model: nn.Module,
    scales: Mapping[str, Scale],
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
    draw: bool = False,
) -> nn.Module:
    """Bring a model into its parametrization: initial weights and multipliers; return it.

    Own initial values are rescaled; at the base width they stay what they are, to the last bit.
    Tensors to which `init` gave a distribution are drawn anew, on the CPU, so that one seed gives
    one network on every device. Kept ones act as the model made them: `w = W / mult`. A second call
    replaces the factors of the first. On the meta device a model gets multipliers only.

    Weights that were loaded before look like own values and are rescaled. A warning names those
    whose size says so, but not all have another size: say `keep=`, or load afterwards.

    Args:
        scales: what `scale` returns.
        generator, seed: one of them, for samples and masks; own values have been drawn already.
        draw: draw all tensors from the distributions that `describe` found, for a model without
            values, as after `model.to_empty(...)`. Sharded ones get what one process would draw.

    Raises:
        ConfigError: on scales of another model; a generator that is missing or given twice; tensors
            that hold no values, or whose values cannot be drawn.

    Example:
        >>> from mupl.optim.scaling import scale
        >>> from mupl.roles import describe
        >>> infos = describe(lambda width: nn.Linear(width, 3), width=32, base_width=8)
        >>> scales = scale(infos, "mup", "adamw", lr=0.1)
        >>> model = initialize_(nn.Linear(32, 3), scales)
        >>> model.weight_scale
        ScaledParameter(mult=0.25, grad=1)
    """
    check_scales(scales)
    tensors = _checked_tensors(model, scales)
    drawn = [name for name in tensors if draw or scales[name].own is None]
    check_drawable(drawn, scales)
    generator = _generator(generator, seed, drawn)
    _set_multipliers(model, scales)
    set_values(model, tensors, drawn, scales, generator)
    if generator is not None:
        seed_dropout(model, generator.initial_seed())
    return model


def _set_multipliers(model: nn.Module, scales: Mapping[str, Scale]) -> None:
    for name, module in multipliers(model).items():
        if name in scales:
            module.value = scales[name].mult
    insert_(model, scales)
    attention = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    for use in uses(model, scales):
        _set_multiplier(use, attention)


def as_seed(seed: SupportsIndex) -> int:
    """Return a whole number, such as one of numpy's, as the int that torch takes for a seed."""
    if isinstance(seed, bool) or not isinstance(seed, SupportsIndex):
        raise ConfigError(f"seed={seed}: must be a whole number, not a {type(seed).__name__}")
    return operator.index(seed)


def _generator(
    generator: torch.Generator | None, seed: int | None, drawn: Sequence[str]
) -> torch.Generator | None:
    if seed is not None and generator is not None:
        raise ConfigError(f"seed={seed}: give a seed or a generator, one of them")
    if seed is not None:
        return torch.Generator().manual_seed(as_seed(seed))
    if generator is None and drawn:
        raise ConfigError(f"seed=None: give a seed or a generator, one of them, to draw {drawn[0]}")
    return generator


def _checked_tensors(model: nn.Module, scales: Mapping[str, Scale]) -> dict[str, nn.Parameter]:
    """Return the parameters of the scales; refuse a model that has not these."""
    try:
        tensors = parameters(model, scales)
    except AttributeError as error:
        raise ConfigError(f"scales: are of another model than this one ({error})") from error
    for name, w in tensors.items():
        check_shape(name, w, scales[name])
    return tensors


def check_shape(name: str, w: Tensor, scale: Scale) -> None:
    """Refuse a tensor of another shape than the one that was described."""
    if scale.shape is not None and tuple(w.shape) != scale.shape:
        raise ConfigError(
            f"scales: {name!r} is {scale.shape} there and {tuple(w.shape)} in the model; "
            "build the model at the width that was described"
        )


class Use(NamedTuple):
    """A module's use of a tensor, and the numbers that scales give to it.

    Args:
        name: of the tensor in this module.
        module, leaf: the module, and the tensor's own name in it.
        mult, grad: multiplier of the tensor, and factor on its gradient, in this use.
    """

    name: str
    module: nn.Module
    leaf: str
    mult: float
    grad: float

    @property
    def is_set(self) -> bool:
        """Whether the module has these numbers."""
        return held_scale(self.module, self.leaf) == (self.mult, self.grad)


def uses(model: nn.Module, scales: Mapping[str, Scale]) -> list[Use]:
    """Return all uses of the tensors that have scales; a shared tensor is used by several modules.

    A readout that shares the matrix of an embedding has a multiplier of its own, under the name of
    the module, beside the multiplier of the embedding.
    """
    first: dict[int, str] = {}
    numbers = multipliers(model)
    found = []
    for raw_name, parameter in model.named_parameters(remove_duplicate=False):
        name = plain_name(raw_name, scales)
        scale = scales.get(first.setdefault(id(parameter), name))
        if scale is None:
            continue
        module, leaf = owner(model, raw_name)
        path = name.rpartition(".")[0]
        mult = scale.mult
        if path in scales and path not in numbers:
            mult *= scales[path].inserted
        found.append(Use(name, module, leaf, mult, scale.grad))
    return found


def check_multipliers_act(model: nn.Module, scales: Mapping[str, Scale]) -> None:
    """Refuse a tensor that has a gradient although no module with its multiplier was called.

    Then another module reads it, without the multiplier.
    """
    by_tensor: dict[nn.Parameter, list[Use]] = {}
    for use in uses(model, scales):
        by_tensor.setdefault(use.module.get_parameter(use.leaf), []).append(use)
    for w, shared in by_tensor.items():
        held = [getattr(use.module, use.leaf + SUFFIX, None) for use in shared]
        passive = [scale is not None and not scale.acted for scale in held]
        fast = any(isinstance(use.module, ScaledLinear) for use in shared)
        if all(passive) and not fast and w.grad is not None and w.grad.any():
            use = shared[0]
            raise ConfigError(
                f"{use.name}: its multiplier {use.mult:g} does not act, since the "
                f"{type(use.module).__name__} is never called and another module reads the tensor; "
                "take a parametrization without one, such as mup_table3"
            )


def _set_multiplier(use: Use, attention: Collection[nn.Module]) -> None:
    module, leaf, mult, grad = use[1:]
    if isinstance(module, ScaledLinear):
        module.set_scale(leaf, mult, grad)
        return
    hold_scale(module, leaf, mult, grad)
    if (mult, grad) == (1.0, 1.0):
        return
    if type(module).forward is nn.Module.forward:
        raise ConfigError(
            f"{use.name}: its multiplier {mult:g} cannot act, since a {type(module).__name__} is "
            "never called; take a parametrization without one, such as mup_table3"
        )
    use_scaled_parameters(module)
    for parent in attention:
        if getattr(parent, "out_proj", None) is module:
            use_scaled_parameters(parent)
