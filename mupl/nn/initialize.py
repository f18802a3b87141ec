"""Putting a parametrization into a module: its initial weights and its multipliers."""

import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.initializers import OWN
from mupl.names import some_of
from mupl.nn.dropout import seed_dropout
from mupl.nn.insertions import insert_
from mupl.nn.layers import ScaledLinear
from mupl.nn.scaled_parameters import SUFFIX, held_scale, hold_scale, use_scaled_parameters
from mupl.parametrization.scales import Scale
from mupl.roles import OwnValues, multipliers
from mupl.roles.infos import root_mean_square

_FACTORS = "_own_value_factors"  # attribute of a module: of own values, by name of the tensor


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
    Tensors to which `init` gave a distribution are drawn anew, in the order of `scales`, on the
    CPU, so that one seed gives one network on every device. Kept ones act as the model made them:
    `w = W / mult`. If the model was initialised before, the new factors replace the earlier ones.
    Without values, on the meta device, it gets multipliers only.
    Weights that were loaded before look like own values and are rescaled. A warning names those
    that are seen to be none, by a constant that is none any more or by their size; loaded values of
    the size of initial ones cannot be told. Say `keep=` of `describe`, or load afterwards.

    Args:
        scales: what `scale` returns.
        generator, seed: one of them, for samples and masks; own values have been drawn already.
        draw: draw all tensors from the distributions that `describe` found in the constructor. This
            is for a model that has no values of its own, as after `model.to_empty(...)`. Tensors
            that are sharded (DTensor) get what one process would draw from the same seed.

    Raises:
        ConfigError: on scales of another model; a generator that is missing or given twice; a
            tensor that holds no values; or values that cannot be drawn, as they are loaded or a
            constructor's own.

    Example:
        >>> from mupl.optim.scaling import scale
        >>> from mupl.roles import describe
        >>> infos = describe(lambda width: nn.Linear(width, 3), width=32, base_width=8)
        >>> scales = scale(infos, "mup", "adamw", lr=0.1)
        >>> model = initialize_(nn.Linear(32, 3), scales)
        >>> model.weight_scale
        ScaledParameter(mult=0.25, grad=1)
    """
    tensors = _checked_tensors(model, scales)
    drawn = [name for name in tensors if draw or scales[name].own is None]
    _check_drawable(drawn, scales)
    generator = _generator(generator, seed, drawn)
    for name, module in multipliers(model).items():
        if name in scales:
            module.value = scales[name].mult
    insert_(model, scales)
    attention = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    for use in uses(model, scales):
        _set_multiplier(use, attention)
    filled = {name: w for name, w in tensors.items() if not w.is_meta}
    own = {name: w for name, w in filled.items() if name not in drawn}
    _check_values(own, scales)
    _tell_other_values(model, own, scales)
    for name, w in filled.items():
        module, leaf = owner(model, name)
        if name in own:
            _rescale(module, leaf, w, scales[name])
        else:
            _draw(module, leaf, w, scales[name], generator)
    if generator is not None:
        seed_dropout(model, generator.initial_seed())
    return model


def _generator(
    generator: torch.Generator | None, seed: int | None, drawn: Sequence[str]
) -> torch.Generator | None:
    if seed is not None and generator is not None:
        raise ConfigError(f"seed={seed}: give a seed or a generator, one of them")
    if seed is not None:
        return torch.Generator().manual_seed(seed)
    if generator is None and drawn:
        raise ConfigError(f"seed=None: give a seed or a generator, one of them, to draw {drawn[0]}")
    return generator


def _check_drawable(names: Sequence[str], scales: Mapping[str, Scale]) -> None:
    unknown = [name for name in names if scales[name].init.name == OWN]
    if unknown:
        raise ConfigError(
            f"draw: the values of {', '.join(unknown)} are loaded or made in a way that has no "
            "distribution; say init={...} for them in describe, or build the model with its values"
        )


def _tell_other_values(
    model: nn.Module, tensors: Mapping[str, nn.Parameter], scales: Mapping[str, Scale]
) -> None:
    """Warn if tensors hold other values than initial ones while effective tensors will change."""
    own: dict[str, OwnValues] = {}
    for name in tensors:
        module, leaf = owner(model, name)
        values = scales[name].own
        if values is not None and leaf not in _own_value_factors(module):
            own[name] = values
    changed = []
    for name, values in own.items():
        change = values.ratio_of(tensors[name]) * scales[name].init_factor * scales[name].mult
        if not math.isclose(change, 1):
            changed.append(name)
    others = [name for name, values in own.items() if not values.are_these(tensors[name])]
    if changed and others:
        warnings.warn(
            f"initialize_: {some_of(others)} do not hold values that the model starts with, but "
            f"perhaps loaded ones, and {some_of(changed)} were rescaled; say keep= for tensors "
            "that shall act as they are, or load them afterwards",
            stacklevel=3,
        )


@torch.no_grad()
def _draw(
    module: nn.Module,
    leaf: str,
    w: nn.Parameter,
    scale: Scale,
    generator: torch.Generator | None,
) -> None:
    """Draw a tensor; of a sharded one every process draws all of it and keeps its part."""
    values = sample(scale, w.shape, w.dtype, generator)
    if hasattr(w, "placements"):  # a DTensor, whose module takes half a second to import
        from torch.distributed.tensor import distribute_tensor

        layout = (w.device_mesh, w.placements)  # type: ignore[attr-defined]
        values = distribute_tensor(values, *layout, src_data_rank=None)
    w.copy_(values)
    _own_value_factors(module)[leaf] = (1.0, scale.init_factor)


def _own_value_factors(module: nn.Module) -> dict[str, tuple[float, float]]:
    """Return what values of a module's tensors were multiplied by already, by leaf.

    First comes what brings them to the scale of the base width, then all factors together.
    """
    return module.__dict__.setdefault(_FACTORS, {})


# Own values by which root mean squares may differ between widths; what memory holds by chance is
# zero, not finite, or farther away
PLAUSIBLE = 1e4


def _check_values(tensors: Mapping[str, Tensor], scales: Mapping[str, Scale]) -> None:
    """Refuse tensors that nobody filled.

    Initial values at two widths are of nearly one size, those of uninitialised memory are not.
    """
    for name, w in tensors.items():
        own = scales[name].own
        assert own is not None
        found = root_mean_square(w)
        if own.rms > 0 and not 1 / PLAUSIBLE < found / own.rms < PLAUSIBLE:
            raise ConfigError(
                f"{name}: holds no initial values (their root mean square is {found:g}, and "
                f"{own.rms:g} at the base width); after to_empty let the model fill its tensors, "
                "or say draw=True"
            )


@torch.no_grad()
def _rescale(module: nn.Module, leaf: str, w: nn.Parameter, scale: Scale) -> None:
    """Rescale a tensor's own values, once."""
    assert scale.own is not None
    factors = _own_value_factors(module)
    if leaf not in factors:
        factors[leaf] = (scale.own.ratio_of(w), 1.0)
    ratio, before = factors[leaf]
    factor = ratio * scale.init_factor
    if factor != before:
        w.mul_(factor / before)
    factors[leaf] = (ratio, factor)


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


def sample(
    scale: Scale, shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator | None = None
) -> Tensor:
    """Return initial values `w` for one tensor, on the CPU."""
    return scale.init(torch.empty(shape, dtype=dtype, device="cpu"), generator)


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
    """Return all uses of the tensors that have scales, those of shared ones by each module.

    A readout that shares the matrix of an embedding has a multiplier of its own, under the name of
    the module, beside that of the embedding.
    """
    first: dict[int, str] = {}
    numbers = multipliers(model)
    found = []
    for raw_name, parameter in model.named_parameters(remove_duplicate=False):
        name = plain_name(raw_name)
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


# What torch puts into a parameter's name when a model is compiled or wrapped
_WRAPPED = re.compile(r"\b_orig_mod\.|^module\.")


def plain_name(name: str) -> str:
    """Return the name that a parameter has in the plain model."""
    return _WRAPPED.sub("", name)
