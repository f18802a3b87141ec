"""Folding: the plain model of the same function, its multipliers multiplied into its tensors."""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mupl.errors import ConfigError
from mupl.names import child_path
from mupl.nn.experts import ExpertLinear
from mupl.nn.insertions import (
    OUTPUT,
    ScaledAttribute,
    ScaledOutput,
    remove_output_hook,
)
from mupl.nn.layers import UNSCALED, ScaledLinear
from mupl.nn.multipliers import TiedReadout
from mupl.nn.scaled_parameters import (
    QUERIES,
    SUFFIX,
    ScaledParameter,
    ScaledQueries,
    remove_hooks,
    scale_queries,
)
from mupl.nn.values import forget_factors
from mupl.roles import MultiplierRole, multipliers
from mupl.roles.attention import query_module
from mupl.roles.fans import is_conv1d_of_transformers
from mupl.roles.source import forward_source

# What modules call the layer that makes the output of a residual branch
_LAST = (
    "o_proj",
    "out_proj",
    "c_proj",
    "down_proj",
    "dense",
    "out_lin",
    "lin2",
    "linear2",
    "fc2",
    "out",
    "down",
    "proj",
    "wo",
    "Wo",
    "o",
    "w2",
)


@torch.no_grad()
def folded(model: nn.Module, stock_values: Mapping[str, float]) -> nn.Module:
    """Return the plain model of a model's function: without multipliers, hooks, or other keys.

    A multiplier of a tensor is multiplied into it, a multiplier of attention logits into what makes
    the queries, and a multiplier of a residual branch into the branch's last layer. A readout that
    shares its weight with an embedding gets one of its own where their multipliers differ.

    Args:
        model: what `initialize_` returned; it is left as it is.
        stock_values: values of the model's own `Multiplier`s before `initialize_`, by path.

    Raises:
        ConfigError: naming a multiplier that has no place in the plain model.

    Example:
        >>> from mupl.training.setup import Setup
        >>> setup = Setup(lambda width: nn.Linear(width, 3), 32, base_width=8, lr=0.1)
        >>> plain = folded(setup.model, {})
        >>> list(plain.state_dict())
        ['weight', 'bias']
        >>> torch.equal(plain.weight, setup.model.weight / 4)
        True
    """
    plain = copy.deepcopy(model)
    _fold_parameters(plain)
    _fold_own_multipliers(plain, stock_values)
    for path in dict(plain.named_modules()):
        _fold_insertions(plain, path)
    for module in plain.modules():
        remove_hooks(module)
        remove_output_hook(module)
        forget_factors(module)
        if isinstance(module, ScaledLinear):
            module.scale = UNSCALED
    return plain


def _fold_parameters(model: nn.Module) -> None:
    """Multiply tensors by their multipliers; untie those that have several."""
    uses: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in list(model.modules()):
        for leaf, w in module._parameters.items():
            if w is not None:
                uses.setdefault(w, []).append((module, leaf))
    is_untied = False
    for w, shared in uses.items():
        mults = [_take(module, leaf) for module, leaf in shared]
        for (module, leaf), mult in zip(shared, mults, strict=True):
            if mult != mults[0]:
                is_untied = True
                setattr(module, leaf, nn.Parameter(mult * w, w.requires_grad))
        if mults[0] != 1:
            w.mul_(mults[0])
    if is_untied:
        _untie(model)


def _take(module: nn.Module, leaf: str) -> float:
    """Return the multiplier of a tensor, and take it away."""
    held = module._modules.get(leaf + SUFFIX)
    if not isinstance(held, ScaledParameter):
        return 1.0
    del module._modules[leaf + SUFFIX]
    return held.mult


def _untie(model: Any) -> None:
    """Let a model of transformers know that its readout has a weight of its own.

    The models of T5 tie whatever their config says; they load a readout that differs as it is.
    """
    keys = getattr(model, "all_tied_weights_keys", None)
    if not keys:
        return
    if not hasattr(model.config, "scale_decoder_outputs"):
        model.config.tie_word_embeddings = False
    for name in keys:
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        w = module.get_parameter(leaf)
        setattr(module, leaf, nn.Parameter(w.clone(), w.requires_grad))
    model.all_tied_weights_keys = {}


def _fold_insertions(model: nn.Module, path: str) -> None:
    """Multiply what `mupl.nn.insertions` inserted into a module's tensors."""
    try:
        module = model.get_submodule(path)
    except AttributeError:  # what was inserted there, and is taken away
        return
    held = module._modules.pop(OUTPUT, None)
    if isinstance(held, ScaledOutput):
        _scale_output_of(model, path, held.mult, held.size)
    held = module._modules.pop(QUERIES, None)
    if isinstance(held, ScaledQueries) and isinstance(module, nn.MultiheadAttention):
        for leaf in ("in_proj_weight", "q_proj_weight", "in_proj_bias"):
            w = getattr(module, leaf)
            if w is not None:
                w.copy_(scale_queries(w, module.embed_dim, held.mult))
    elif isinstance(held, ScaledAttribute):
        setattr(module, held.attribute, held.own)
        _scale_queries_of(model, path, held.mult / held.own)


def _fold_own_multipliers(model: nn.Module, stock_values: Mapping[str, float]) -> None:
    """Give the model's own `Multiplier`s the values of the stock model, their share to tensors."""
    for path, multiplier in multipliers(model).items():
        factor = multiplier.value / stock_values[path]
        if math.isclose(factor, 1, rel_tol=1e-12):
            continue
        parent_path, _, name = path.rpartition(".")
        parent = model.get_submodule(parent_path)
        last = getattr(parent, "last_of_branch", {}).get(name)
        if multiplier.multiplier_role is MultiplierRole.ATTENTION:
            _scale_queries_of(model, parent_path, factor)
        elif isinstance(multiplier, TiedReadout):
            _replace_readout(parent, name)
            continue
        elif multiplier.multiplier_role is MultiplierRole.RESIDUAL and last is not None:
            _scale_output_of(model, child_path(parent_path, last), factor)
        else:
            raise _no_place(path, factor, "it is a Multiplier of the model itself")
        multiplier.value = stock_values[path]


def _replace_readout(parent: nn.Module, name: str) -> None:
    """Give a model of ours a readout with a weight of its own, a multiple of the embedding's."""
    tied = getattr(parent, name)
    weight = tied.value * parent.get_submodule("embedding").get_parameter("weight")
    readout = ScaledLinear(weight.shape[1], weight.shape[0], bias=False).to(weight)
    readout.weight.copy_(weight)
    setattr(parent, name, readout)
    config: Any = parent.config
    parent.config = dataclasses.replace(config, tied=False)


def _scale_queries_of(model: nn.Module, path: str, factor: float) -> None:
    """Multiply the queries of an attention by a factor, by its tensors."""
    queries = query_module(model.get_submodule(path))
    if queries is None:
        raise _no_place(path, factor, "it is not known which layer makes the queries")
    child, size = queries
    _scale_output_of(model, child_path(path, child), factor, size)


def _scale_output_of(model: nn.Module, path: str, factor: float, size: int | None = None) -> None:
    """Multiply the first `size` features, or all, of what a module returns, by its tensors."""
    last = _last_layer(model.get_submodule(path))
    if last is None:
        raise _no_place(path, factor, "it is not known which tensors make its output")
    for leaf in _OUTPUT_TENSORS:
        w = last._parameters.get(leaf)
        if w is None:
            continue
        if _count(model, w) > 1:
            raise _no_place(path, factor, f"its {leaf} is another module's too")
        is_transposed = leaf == "weight" and is_conv1d_of_transformers(last)
        part = w if size is None else w.narrow(1 if is_transposed else 0, 0, size)
        part.mul_(factor)


# What a layer's output is linear in: of linear layers and norms, of scales, of stacked experts
_OUTPUT_TENSORS = ("weight", "bias", "gamma", "lambda1", "down_proj")


def _count(model: nn.Module, w: nn.Parameter) -> int:
    """Return how many modules use a tensor."""
    return sum(w is other for module in model.modules() for other in module._parameters.values())


def _last_layer(module: nn.Module) -> nn.Module | None:
    """Return the layer in a module that makes its output, if that is known."""
    if _is_layer(module):
        return module
    if isinstance(module, nn.MultiheadAttention):
        return module.out_proj
    if isinstance(module, nn.Sequential):
        layers = [child for child in module if not isinstance(child, nn.Identity | nn.Dropout)]
        return _last_layer(layers[-1]) if layers else None
    experts = [child for child in module.modules() if "down_proj" in child._parameters]
    named = [(name, child) for name, child in module.named_modules() if _is_layer(child)]
    linear = [(name, child) for name, child in named if _is_linear(child)]
    named_last = [child for name, child in linear if name.rpartition(".")[2] in _LAST]
    if experts:
        return experts[0] if len(experts) == 1 and not named_last else None
    if linear and named_last and linear[-1][1] is named_last[-1]:
        return named_last[-1]
    return None


def _is_linear(module: nn.Module) -> bool:
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | ExpertLinear
    return isinstance(module, kinds) or is_conv1d_of_transformers(module)


def _is_layer(module: nn.Module) -> bool:
    """Say whether a module's output is linear in its weight and bias."""
    if _is_linear(module):
        return True
    name = type(module).__name__
    is_norm = "Norm" in name and module._parameters.get("weight") is not None
    if is_norm:
        return "1.0 + self.weight" not in forward_source(module)  # as in Gemma
    return "LayerScale" in name and bool({"gamma", "lambda1"} & set(module._parameters))


def _no_place(path: str, factor: float, why: str) -> ConfigError:
    return ConfigError(
        f"fold: the multiplier {factor:g} of {path!r} has no place in the plain model, since "
        f"{why}; save setup.model.state_dict() and load it into the model of an equal Setup instead"
    )
