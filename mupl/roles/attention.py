"""Attention whose heads grow with width, in models without `Multiplier("attention")`."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from mupl.names import child_path
from mupl.roles.infos import (
    Insertion,
    InsertionKind,
    MultiplierInfo,
    MultiplierRole,
    multipliers,
)
from mupl.roles.source import forward_source

SUFFIX = "attention_scale"  # last part of the name of a multiplier of attention logits

# What modules call the size of a head: torch, timm, and several of transformers ...
_HEAD_SIZES = (
    "qk_head_dim",
    "head_dim",
    "attention_head_size",
    "attention_head_dim",
    "key_value_proj_dim",
    "head_size",
    "d_head",
)
# ... the number by which they multiply attention logits ...
_SCALES = ("scaling", "scale", "softmax_scale", "inv_norm_factor")
# ... the layer that makes queries alone, and the norm after it.
_QUERIES = ("q_proj", "query", "query_proj", "q", "q_attn", "q_lin", "linear_q", "to_q", "wq", "Wq")
_QUERY_NORMS = ("q_norm", "query_norm", "q_layernorm", "query_layernorm", "norm_q")
# Queries, keys and values in one, queries first: `qkv(x).reshape(B, N, 3, heads, head_dim)`
_QUERIES_FIRST = re.compile(r"self\.qkv\(\w+\)\.(reshape|view)\(\s*\w+, \w+, 3,")
# ... or as in GPT-2
_SPLIT = re.compile(r"self\.c_attn\(\w+\)\.split\(self\.split_size, dim=2\)")
# Logits divided by the square root of the size of a head, by the module's own code or by torch's
_DIVIDES = re.compile(r"sqrt\(|\*\* ?\(?-0\.5|scaled_dot_product_attention\((?![^)]*\bscale=)")


@dataclass(frozen=True)
class BaseHeads:
    """The attention heads of a module of a base model.

    Args:
        sizes: of a head, at the base size, and at a wider one if there is one.
        scale: by what the module multiplies its logits at the base size; None: it is not known.
    """

    sizes: tuple[int, ...]
    scale: float | None


def heads_of(models: Sequence[nn.Module]) -> dict[str, BaseHeads]:
    """Find the heads of a model at its base size, and at a wider one if there is one.

    Example:
        >>> heads_of([nn.MultiheadAttention(16, num_heads=4)])
        {'': BaseHeads(sizes=(4,), scale=0.5)}
    """
    found = {}
    by_path = [dict(model.named_modules()) for model in models]
    for path, module in by_path[0].items():
        at_each = [head_size(modules[path]) for modules in by_path if path in modules]
        sizes = [size for size in at_each if size is not None]
        if sizes:
            place = _place(path, module)
            found[path] = BaseHeads(tuple(sizes), None if place is None else place.own)
    return found


def describe_attention(
    model: nn.Module, heads: Callable[[str], BaseHeads | None]
) -> tuple[dict[str, MultiplierInfo], list[str]]:
    """Describe the multiplier of the logits of every attention whose heads grow.

    Its value at the base width is what the model has there, `d_head^-1/2` as a rule; `m_in` is
    d_head over its base value. See `mupl.nn.insertions` for how it acts.

    Args:
        heads: of the base model, by path.

    Returns:
        The multipliers by name, and the paths of modules to which none can be given.
    """
    own = [path.rpartition(".")[0] for path in _own_multipliers(model)]
    infos: dict[str, MultiplierInfo] = {}
    done = []
    left = []
    for path, module in model.named_modules():
        size = head_size(module)
        base = heads(path)
        if size is None or base is None or {*base.sizes} == {size}:
            continue
        if any(is_inside(owner, path) for owner in own):
            continue
        place = None if own else _place(path, module)
        if place is None or base.scale is None:
            left.append(path)
            continue
        done.append(path)
        infos[child_path(path, SUFFIX)] = MultiplierInfo(
            role=MultiplierRole.ATTENTION,
            value=base.scale,
            fan_in=size,
            m_in=size / base.sizes[0],
            grows=True,
            insertion=place,
        )
    return infos, [path for path in left if not _is_related(path, done)]


def head_size(module: nn.Module) -> int | None:
    """Return the size of a head, if a module says one.

    Example:
        >>> head_size(nn.MultiheadAttention(8, num_heads=2))
        4
    """
    for attribute in _HEAD_SIZES:
        size = getattr(module, attribute, None)
        if isinstance(size, int):
            return size
    return None


def query_module(module: nn.Module) -> tuple[str, int | None] | None:
    """Return the child whose output are queries, and how many of its features; None: not known.

    It is the norm of the queries where there is one. None for a number of features: all.
    """
    source = forward_source(module)
    for name in (*_QUERY_NORMS, *_QUERIES):
        child = getattr(module, name, None)
        is_used = isinstance(child, nn.Module) and not isinstance(child, nn.Identity)
        if is_used and f"self.{name}(" in source:
            return name, None
    qkv = getattr(module, "qkv", None)
    if isinstance(qkv, nn.Linear) and _QUERIES_FIRST.search(source):
        return "qkv", qkv.out_features // 3
    if _SPLIT.search(source) and isinstance(size := getattr(module, "split_size", None), int):
        return "c_attn", size
    return None


def is_inside(path: str, parent: str) -> bool:
    """Say whether a module is another one or within it, by their paths."""
    return not parent or path == parent or path.startswith(f"{parent}.")


def _own_multipliers(model: nn.Module) -> list[str]:
    """Return the paths of the model's own multipliers of attention logits."""
    named = multipliers(model).items()
    return [path for path, found in named if found.multiplier_role == MultiplierRole.ATTENTION]


def _is_related(path: str, others: Sequence[str]) -> bool:
    """Say whether a module contains one of the others or is within one."""
    return any(is_inside(path, other) or is_inside(other, path) for other in others)


def _place(path: str, module: nn.Module) -> Insertion | None:
    """Say where a multiplier of an attention's logits acts, and what the module multiplies by."""
    size = head_size(module)
    assert size is not None
    if isinstance(module, nn.MultiheadAttention):
        return Insertion(InsertionKind.IN_PROJECTION, path, own=size**-0.5)
    source = forward_source(module)
    attribute = _scale_attribute(module, source)
    if attribute is not None:
        held = module._modules.get(SUFFIX)  # of a model that was initialised before
        own = float(getattr(held, "own", getattr(module, attribute)))
        return Insertion(InsertionKind.ATTRIBUTE, path, own=own, attribute=attribute)
    queries = query_module(module)
    if queries is None or not _DIVIDES.search(source):
        return None
    child, features = queries
    return Insertion(InsertionKind.OUTPUT, child_path(path, child), own=size**-0.5, size=features)


def _scale_attribute(module: nn.Module, source: str) -> str | None:
    """Return the name of the number by which a module multiplies its logits, if it has one.

    Modules of timm ignore theirs when their attention is fused. One of d_head^-1/4 multiplies
    queries and keys.
    """
    size = head_size(module)
    if size is None or hasattr(module, "fused_attn"):
        return None
    for name in _SCALES:
        value = getattr(module, name, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            continue
        if size > 1 and math.isclose(value, size**-0.25):
            continue
        if re.search(rf"self\.{name}\b(?! ?[-+*/]?=[^=])", source):
            return name
    return None
