"""Putting a parametrization into a module: its initial weights and its multipliers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mupl.errors import ConfigError
from mupl.nn.dropout import seed_dropout
from mupl.nn.layers import ScaledLinear, scaled
from mupl.parametrization.scales import Scale
from mupl.roles import multipliers


def initialize_(
    model: nn.Module,
    scales: Mapping[str, Scale],
    generator: torch.Generator | None = None,
    *,
    seed: int | None = None,
) -> nn.Module:
    """Bring a model into its parametrization: initial weights and multipliers; return it.

    The model's own initial values are rescaled, `w = factor * own`, so that at the base width they
    stay what they are, to the last bit. Tensors to which `init` gave a distribution are drawn anew,
    in the order of `scales`, on the CPU, so that one seed gives one network on every device. Kept
    ones act as the model made them: `w = W / mult`. A model that was initialised before gets the
    factors of the new scales in place of those of the earlier ones.

    A `ScaledLinear` holds its multiplier and applies it to activations. In any other module a
    tensor with a multiplier != 1 becomes `W = mult * w` by `torch.nn.utils.parametrize`; its
    parameter is then called `parametrizations.NAME.original`. A module on the meta device, which
    has no values, gets its multipliers only. The seed is also that of the masks of
    `mupl.nn.dropout.Dropout`.

    Args:
        scales: what `scale` returns.
        generator, seed: where the samples come from; at most one of them. Own values are not drawn
            here, but where the model is built: say `torch.manual_seed` there.

    Raises:
        ConfigError: if both seed and generator are given, or none where a tensor has to be drawn;
            or if the scales are those of another model.

    Example:
        >>> from mupl.optim.scaling import scale
        >>> from mupl.roles import describe
        >>> infos = describe(lambda width: nn.Linear(width, 3), width=32, base_width=8)
        >>> scales = scale(infos, "mup", "adamw", lr=0.1)
        >>> model = initialize_(nn.Linear(32, 3), scales)
        >>> model.parametrizations.weight[0]
        ScaledParameter(mult=0.25, grad=1)
    """
    _check_shapes(model, scales)
    by_name = multipliers(model)
    drawn = [name for name in scales if name not in by_name and scales[name].own is None]
    generator = _generator(generator, seed, drawn)
    for name, scale in scales.items():
        if name in by_name:
            by_name[name].value = scale.mult
        else:
            _set_multiplier(*owner(model, name), scale.mult, scale.grad)
    for name, w in parameters(model, scales).items():
        if not w.is_meta:
            _fill(*owner(model, name), w, scales[name], generator)
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


@torch.no_grad()
def _fill(
    module: nn.Module,
    leaf: str,
    w: nn.Parameter,
    scale: Scale,
    generator: torch.Generator | None,
) -> None:
    """Draw a tensor, or rescale its own values.

    The factors are noted in the module, so that they are not applied twice.
    """
    if scale.own is None:
        w.copy_(sample(scale, w.shape, w.dtype, generator))
        return
    factors = module.__dict__.setdefault("_own_value_factors", {})
    if leaf not in factors:
        factors[leaf] = (scale.own.ratio_of(w), 1.0)
    ratio, before = factors[leaf]
    factor = ratio * scale.init_factor
    if factor != before:
        w.mul_(factor / before)
    factors[leaf] = (ratio, factor)


def _check_shapes(model: nn.Module, scales: Mapping[str, Scale]) -> None:
    try:
        tensors = parameters(model, scales)
    except AttributeError as error:
        raise ConfigError(f"scales: are of another model than this one ({error})") from error
    for name, w in tensors.items():
        check_shape(name, w, scales[name])


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


def parameters(model: nn.Module, names: Mapping[str, object]) -> dict[str, nn.Parameter]:
    """Return the parameters `w` among `names`, by the names from before any multiplier was set."""
    by_name = multipliers(model)
    return {name: _original(*owner(model, name)) for name in names if name not in by_name}


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that has an attribute such as a parameter, and the attribute's own name."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _original(module: nn.Module, leaf: str) -> nn.Parameter:
    """Return the parameter `w` that the optimizer sees, whether or not a multiplier is set."""
    if parametrize.is_parametrized(module, leaf):
        leaf = f"parametrizations.{leaf}.original"
    return module.get_parameter(leaf)


def has_multiplier(module: nn.Module, leaf: str, scale: Scale) -> bool:
    """Return whether a module's own tensor has the multipliers of a scale, as `initialize_` sets.

    Args:
        leaf: name of the tensor in the module; of a parametrized one, `original`.
    """
    if (scale.mult, scale.grad) == (1.0, 1.0):
        return True
    if isinstance(module, ScaledLinear):
        mult, grad = module.get_scale(leaf)
        return (mult, grad) == (scale.mult, scale.grad)
    return isinstance(module, parametrize.ParametrizationList)


class ScaledParameter(nn.Module):
    """`w -> mult * w`, with the gradient of `w` multiplied by `grad`."""

    def __init__(self, mult: float, grad: float) -> None:
        super().__init__()
        self.mult = mult
        self.grad = grad

    def forward(self, w: Tensor) -> Tensor:
        if self.grad == 1:
            return self.mult * w
        return scaled(w, self.mult, self.mult * self.grad)

    def extra_repr(self) -> str:
        return f"mult={self.mult:g}, grad={self.grad:g}"


def _set_multiplier(module: nn.Module, leaf: str, mult: float, grad: float) -> None:
    if isinstance(module, ScaledLinear):
        module.set_scale(leaf, mult, grad)
        return
    if parametrize.is_parametrized(module, leaf):
        parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
    if (mult, grad) != (1.0, 1.0):
        parametrize.register_parametrization(module, leaf, ScaledParameter(mult, grad), unsafe=True)
