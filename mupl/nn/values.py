"""Initial values of tensors: the model's own, rescaled, or drawn anew."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.initializers import OWN
from mupl.names import some_of
from mupl.nn.tensors import owner
from mupl.parametrization.scales import Scale
from mupl.roles import OwnValues
from mupl.roles.infos import root_mean_square

# Own values by which root mean squares may differ between widths; what memory holds by chance is
# zero, not finite, or farther away
PLAUSIBLE = 1e4
_FACTORS = "_own_value_factors"  # attribute of a module: of own values, by name of the tensor


def set_values(
    model: nn.Module,
    tensors: Mapping[str, nn.Parameter],
    drawn: Collection[str],
    scales: Mapping[str, Scale],
    generator: torch.Generator | None,
) -> None:
    """Draw some tensors and rescale the others, but those on the meta device."""
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


def check_drawable(names: Sequence[str], scales: Mapping[str, Scale]) -> None:
    unknown = [name for name in names if scales[name].init.name == OWN]
    if unknown:
        raise ConfigError(
            f"draw: the values of {', '.join(unknown)} are loaded or made in a way that has no "
            "distribution; say init={...} for them in describe, or build the model with its values"
        )


def _check_values(tensors: Mapping[str, Tensor], scales: Mapping[str, Scale]) -> None:
    """Refuse tensors that nobody filled.

    Initial values at two widths are of nearly one size; uninitialised memory is not.
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
            stacklevel=4,
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
    values = scale.init(torch.empty(w.shape, dtype=w.dtype, device="cpu"), generator)
    if hasattr(w, "placements"):  # a DTensor, whose module takes half a second to import
        from torch.distributed.tensor import distribute_tensor

        layout = (w.device_mesh, w.placements)  # type: ignore[attr-defined]
        values = distribute_tensor(values, *layout, src_data_rank=None)
    w.copy_(values)
    _own_value_factors(module)[leaf] = (1.0, scale.init_factor)


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


def _own_value_factors(module: nn.Module) -> dict[str, tuple[float, float]]:
    """Return what values of a module's tensors were multiplied by already, by leaf.

    First comes what brings them to the scale of the base width, then all factors together.
    """
    return module.__dict__.setdefault(_FACTORS, {})


def forget_factors(module: nn.Module) -> None:
    """Take away the note of what a module's tensors were multiplied by."""
    module.__dict__.pop(_FACTORS, None)
