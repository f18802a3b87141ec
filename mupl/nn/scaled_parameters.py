"""Multipliers of tensors: a module computes with `mult * w` in place of its own tensor w.

The module that uses a tensor gets a `ScaledParameter` beside it, and hooks that put `mult * w` in
its place for the time of a forward pass. So the parameter keeps its name, and a tensor that two
modules share has a multiplier in each. A `mupl.nn.layers.ScaledLinear` applies its multipliers to
activations instead, for speed.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mupl.errors import ConfigError

SUFFIX = "_scale"  # follows the name of a tensor in the name of its `ScaledParameter`
QUERIES = "attention_scale"  # name of the `ScaledQueries` of an `nn.MultiheadAttention`


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        forward: float,
        backward: float | Tensor,
    ) -> Tensor:
        ctx.factor = backward
        return x * forward

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return g * ctx.factor, None, None


def scaled(
    x: Tensor,
    forward: float = 1.0,
    backward: float | Tensor = 1.0,
) -> Tensor:
    """Return `forward * x`, with the gradient multiplied by `backward` (and not by `forward`)."""
    return _Scaled.apply(x, forward, backward)


class HeldMultiplier(nn.Module):
    """A number that a module multiplies by, as a child of that module.

    It is saved with the model, and a state dict with another number is refused.

    Args:
        mult: the number.
    """

    multiplies: ClassVar = "a tensor"
    # Plain attributes: torch.compile would guard every look at where a module might register them.
    __setattr__ = object.__setattr__  # type: ignore[assignment]

    def __init__(self, mult: float) -> None:
        super().__init__()
        self.mult = mult

    def forward(self, x: Any) -> Any:
        """Return x, as it is called only where the parent calls all its children in a row."""
        return x

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.mult, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        saved = float(state)
        if not math.isclose(saved, self.mult, rel_tol=1e-6):
            raise ConfigError(
                f"state dict: it was saved under the multiplier {saved:g} of {self.multiplies} "
                f"that has {self.mult:g} here; build the model with the width, base width and "
                "parametrization of that one"
            )

    def extra_repr(self) -> str:
        return f"mult={self.mult:g}"


class ScaledParameter(HeldMultiplier):
    """Says by what its parent multiplies one of its own tensors: `w -> mult * w`.

    The gradient of `w` is multiplied by `grad` too. The multiplier belongs to the use: another
    module that shares the tensor has one of its own, or none.

    Attributes:
        acted: whether a forward pass has used it.
        replaced: w while `mult * w` stands in its place in the module, which is during a forward
            pass.
    """

    replaced: Tensor | None

    def __init__(self, mult: float, grad: float) -> None:
        super().__init__(mult)
        self.grad = grad
        self.acted = False
        self.replaced = None

    def scale(self, w: Tensor) -> Tensor:
        """Return `mult * w`."""
        self.acted = True
        if self.grad == 1:
            return self.mult * w
        return scaled(w, self.mult, self.mult * self.grad)

    def extra_repr(self) -> str:
        return f"mult={self.mult:g}, grad={self.grad:g}"


class ScaledQueries(HeldMultiplier):
    """Says by what an `nn.MultiheadAttention` multiplies its queries, and so its logits.

    Attributes:
        replaced: what stands in the module but for a forward pass, by name.
    """

    multiplies: ClassVar = "attention logits"
    replaced: tuple[tuple[str, Any], ...]

    def __init__(self, mult: float) -> None:
        super().__init__(mult)
        self.replaced = ()

    def put(self, module: nn.MultiheadAttention) -> None:
        """Put the multiplied projection of the queries in the place of the module's own."""
        if self.replaced:
            return
        leaves = [leaf for leaf in _PROJECTIONS if module._parameters.get(leaf) is not None]
        self.replaced = tuple((leaf, module._parameters[leaf]) for leaf in leaves)
        for leaf, w in self.replaced:
            multiplied: Any = scale_queries(w, module.embed_dim, self.mult)
            module._parameters[leaf] = multiplied

    def put_back(self, module: nn.Module) -> None:
        """Put the module's own tensors back."""
        for leaf, w in self.replaced:
            module._parameters[leaf] = w
        self.replaced = ()


# What makes the queries of an `nn.MultiheadAttention`; keys and values come after them
_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "in_proj_bias")


def scale_queries(w: Tensor, size: int, mult: float) -> Tensor:
    """Return a tensor with its first `size` rows, which make the queries, multiplied."""
    return torch.cat([mult * w[:size], w[size:]])


def hold_scale(module: nn.Module, leaf: str, mult: float, grad: float) -> None:
    """Put a `ScaledParameter` beside the tensor `leaf` of a module, or take it away."""
    if isinstance(getattr(module, leaf + SUFFIX, None), ScaledParameter):
        delattr(module, leaf + SUFFIX)
    if (mult, grad) != (1.0, 1.0):
        module.add_module(leaf + SUFFIX, ScaledParameter(mult, grad))


def held_scale(module: nn.Module, leaf: str) -> tuple[float, float]:
    """Return the multiplier and the gradient factor of the tensor `leaf` of a module."""
    held = getattr(module, leaf + SUFFIX, None)
    return (held.mult, held.grad) if isinstance(held, ScaledParameter) else (1.0, 1.0)


def effective(module: nn.Module, leaf: str) -> Tensor:
    """Return the tensor `leaf` of a module as the module itself uses it."""
    w = getattr(module, leaf)
    held = getattr(module, leaf + SUFFIX, None)
    return held.scale(w) if isinstance(held, ScaledParameter) else w


def use_scaled_parameters(module: nn.Module) -> None:
    """Make a module compute with the tensors that its `ScaledParameter`s say.

    The hooks are functions of this module, so that a model can be copied and pickled. They are the
    innermost ones, so that other hooks, such as FSDP's, find the module's own tensors.
    """
    if _put_scaled not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_put_scaled)
        module.register_forward_hook(_take_scaled, prepend=True, always_call=True)
        # after a KeyboardInterrupt, for which torch calls no other hook
        module.register_state_dict_pre_hook(_put_back)


def remove_hooks(module: nn.Module) -> None:
    """Take away the hooks that `use_scaled_parameters` puts into a module."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if hook is _put_scaled:
            del module._forward_pre_hooks[key]
    for key, hook in list(module._forward_hooks.items()):
        if hook is _take_scaled:
            del module._forward_hooks[key]
            module._forward_hooks_always_called.pop(key, None)
    for key, hook in list(module._state_dict_pre_hooks.items()):
        if hook is _put_back:
            del module._state_dict_pre_hooks[key]


def _put_scaled(module: nn.Module, args: tuple) -> tuple | None:
    """Before a forward pass, put `mult * w` in the place of w.

    It goes to where torch itself puts tensors in the place of parameters
    (`torch.func.functional_call`), which compiles.
    """
    tensors = list(_scaled_tensors(module))
    queries = module._modules.get(QUERIES)
    if args and _scales_input(module, tensors, args[0]):
        return (tensors[0].held.scale(args[0]), *args[1:])
    for owner, leaf, held in tensors:
        if held.replaced is None:
            w = owner._parameters[leaf]
            assert w is not None
            held.replaced = w
            owner._parameters[leaf] = held.scale(w)  # type: ignore[assignment]
    if isinstance(queries, ScaledQueries) and isinstance(module, nn.MultiheadAttention):
        queries.put(module)
    return None


def _take_scaled(module: nn.Module, args: tuple, output: Any) -> None:
    """After a forward pass, or an error in it, leave no trace."""
    _put_back(module)
    if isinstance(module, nn.RNNBase):  # keeps its tensors in a list, too
        module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _put_back(module: nn.Module, *_: Any) -> None:
    """Put w back to where `mult * w` stands."""
    queries = module._modules.get(QUERIES)
    if isinstance(queries, ScaledQueries):
        queries.put_back(module)
    for owner, leaf, held in _scaled_tensors(module):
        if held.replaced is not None:
            owner._parameters[leaf] = held.replaced  # type: ignore[assignment]
            held.replaced = None


class _ScaledTensor(NamedTuple):
    owner: nn.Module
    leaf: str
    held: ScaledParameter


def _scales_input(module: nn.Module, tensors: list[_ScaledTensor], x: Any) -> bool:
    """Say whether `mult * x` does for `mult * w`, and is cheaper as x is the smaller of the two."""
    if type(module).forward is not nn.Linear.forward or len(tensors) != 1:
        return False
    (owner, leaf, held), *_ = tensors
    if leaf != "weight" or held.grad != 1:
        return False
    return x.numel() < owner.get_parameter(leaf).numel()


def _scaled_tensors(module: nn.Module) -> Iterator[_ScaledTensor]:
    """Yield the tensors with a scale that a module reads.

    `nn.MultiheadAttention` reads the weight of its output projection without calling that.
    """
    owners = [module]
    if isinstance(module, nn.MultiheadAttention):
        owners.append(module.out_proj)
    for owner in owners:
        for name, held in owner._modules.items():
            if isinstance(held, ScaledParameter):
                yield _ScaledTensor(owner, name.removesuffix(SUFFIX), held)
