"""Tensors that hold several matrices, such as the queries, keys and values of attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from mupl.names import child_path
from mupl.roles.attention import head_size, query_module
from mupl.roles.infos import Info, ParamInfo


class Held(NamedTuple):
    """What a tensor holds along its outputs: how many matrices of one size, and heads of a size."""

    matrices: int
    head_size: int


def held_matrices(model: nn.Module) -> dict[str, Held]:
    """Find the tensors of a model that are known to hold several matrices, by name.

    A module may say so itself by an attribute `fused`: the name of a tensor in it -> the number of
    its matrices, which have one size. Otherwise it is known of `nn.MultiheadAttention`, and of
    attention that makes queries, keys and values at once (GPT-2's `c_attn`, timm's `qkv`).

    Example:
        >>> held_matrices(nn.MultiheadAttention(8, num_heads=2))
        {'in_proj_weight': Held(matrices=3, head_size=4)}
    """
    found = {}
    for path, module in model.named_modules():
        for name, count in _fused(module).items():
            found[child_path(path, name)] = Held(count, head_size(module) or 0)
    return found


def _fused(module: nn.Module) -> Mapping[str, int]:
    own = getattr(module, "fused", None)
    if isinstance(own, Mapping):
        return own
    if isinstance(module, nn.MultiheadAttention):
        return {"in_proj_weight": 3} if module.in_proj_weight is not None else {}
    queries = query_module(module)
    if queries is None or queries[1] is None:
        return {}
    return {f"{queries[0]}.weight": 3}


def add_parts(infos: dict[str, Info], model: nn.Module) -> None:
    """Give the tensors of a model the numbers of outputs of the matrices that they hold."""
    for name, held in held_matrices(model).items():
        info = infos.get(name)
        if isinstance(info, ParamInfo) and info.fan_out % held.matrices == 0:
            size = info.fan_out // held.matrices
            infos[name] = replace(info, parts=(size,) * held.matrices, head_size=held.head_size)
