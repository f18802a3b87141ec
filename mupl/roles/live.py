"""How the tensors of a model that is there already, and not built here, were filled."""

import copy
import math

import torch
from torch import Tensor, nn

from mupl.initializers import GIVEN, Fill, Initializer, watched_fills
from mupl.roles.infos import noise_of_ratio, root_mean_square

Fills = dict[str, Fill]


def fills_of_modules(model: nn.Module, device: str) -> tuple[nn.Module, Fills]:
    """Fill a copy of a model as its modules do themselves, and note how.

    These are their methods `reset_parameters`, as of all layers of torch, and `_init_weights` of
    models of transformers. On the meta device this takes no memory. A tensor that none of them
    fills is not in the result, nor is any if the model cannot be copied or filled.
    """
    try:
        copied = _copy_on(model, device)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), watched_fills() as watch:
            torch.default_generator.manual_seed(0)  # sizes are measured: always the same
            _fill(copied)
    except Exception:  # what anybody's methods may raise
        return model, {}
    fills = watch.fills(copied)
    return copied, {name: fill for name, fill in fills.items() if fill is not GIVEN}


def _copy_on(model: nn.Module, device: str) -> nn.Module:
    """Copy a model, with new memory for its tensors, or none on the meta device."""
    copies: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        copied: Tensor = torch.empty_like(tensor, device=device, requires_grad=False)
        if isinstance(tensor, nn.Parameter):
            copied = nn.Parameter(copied, tensor.requires_grad)
        copies[id(tensor)] = copied
    return copy.deepcopy(model, copies)


def _fill(model: nn.Module) -> None:
    """Fill a model's tensors, children before their parents.

    Of modules that share a tensor the first fills it last, such as an embedding before a readout.
    """
    filled_by: dict[nn.Module, nn.Module] = {}  # module -> the model of transformers that it is in
    for module in model.modules():
        if _is_of_transformers(module):
            filled_by |= dict.fromkeys(module.modules(), module)
    for module in reversed(list(model.modules())):
        for method in ("reset_parameters", "_reset_parameters"):
            if hasattr(module, method):
                getattr(module, method)()
        if module in filled_by:
            filled_by[module]._init_weights(module)  # type: ignore[operator]


def _is_of_transformers(module: nn.Module) -> bool:
    kinds = {(kind.__module__, kind.__name__) for kind in type(module).__mro__}
    return ("transformers.modeling_utils", "PreTrainedModel") in kinds


def fills_at_base(model: nn.Module) -> tuple[Fills, dict[str, float | None]]:
    """Say how the tensors of a base model were filled, and how large their values are.

    A tensor of one value is a constant. Else what its module does itself is believed unless the
    values belie it, and then they are random. A tensor on the meta device has no values: there what
    its module does decides, and the size is unknown if that fills nothing.
    """
    copied, known = fills_of_modules(model, "cpu")
    fills: Fills = {}
    sizes: dict[str, float | None] = {}
    for name, tensor in model.named_parameters():
        fill = known.get(name, RANDOM)
        filled = copied.get_parameter(name)
        if not tensor.is_meta:
            sizes[name] = root_mean_square(tensor)
            fills[name] = _fill_of_values(tensor.detach(), fill, filled)
        else:
            sizes[name] = root_mean_square(filled) if name in known else None
            fills[name] = fill
    return fills, sizes


RANDOM = Fill(None, random=True)


def _fill_of_values(values: Tensor, fill: Fill, filled: Tensor) -> Fill:
    """Return how values came about: by a fill, of which other values are given, if they may."""
    if not values.numel():
        return RANDOM
    low, high = (bound.item() for bound in values.aminmax())
    if low == high and math.isfinite(low):
        return Fill(Initializer("constant", low), random=False)
    if fill.initializer is None or fill.initializer.std == 0:
        return RANDOM
    noise = noise_of_ratio(values.numel(), filled.numel())
    ratio = root_mean_square(values) / root_mean_square(filled)
    return fill if abs(math.log(ratio)) <= 6 * noise else RANDOM
