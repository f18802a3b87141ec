"""What each tensor of a model is: which of its dimensions grow with width, found from shapes alone."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from mupl.errors import ConfigError
from mupl.initializers import Initializer, built_with_initializers, create_initializer, on_meta
from mupl.names import block_pattern
from mupl.nn.multipliers import Multiplier

T = TypeVar("T")
Width = int | Sequence[int]
Build = Callable[..., nn.Module]


class Role(StrEnum):
    """Which dimensions of a linear map grow with width."""

    INPUT = "input"  # fan_out only; also biases and norm gains (fan_in = 1) and embeddings
    HIDDEN = "hidden"  # fan_in and fan_out
    OUTPUT = "output"  # fan_in only
    SCALAR = "scalar"  # none
    # of numbers, not tensors: `mupl.nn.multipliers.Multiplier`
    ATTENTION = "attention"
    RESIDUAL = "residual"
    TIED = "tied"


MULTIPLIERS = (Role.ATTENTION, Role.RESIDUAL, Role.TIED)


@dataclass(frozen=True)
class ParamInfo:
    """One tensor as the rules see it; `m_in = fan_in / base fan_in`, likewise `m_out`; `init` is that at the base.

    `m_L = depth / base depth` of what is in the blocks, else 1. `shape_role` is what its shapes say; it differs from
    `role` where a user's override contradicts them. `out_first`: stored (out, in, *receptive field). A `Multiplier` is
    described likewise: a map of `fan_in` to 1 with a constant `init`.
    """

    role: Role
    shape_role: Role
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    m_in: float
    m_out: float
    init: Initializer
    m_L: float = 1.0
    in_block: bool = False
    is_embedding: bool = False
    out_first: bool = True

    @property
    def symbols(self) -> dict[str, float]:
        """The values of `mupl.parametrization.cells.SYMBOLS` but alpha."""
        vector = len(self.shape) < 2
        return {
            "m_in": self.m_in,
            "m_out": self.m_out,
            "m_L": self.m_L,
            "terms": 1 if vector or self.is_embedding else self.fan_in,
            "d_embedding": self.fan_out if self.is_embedding else 1,
            "length": self.fan_out if vector else 1,
            "sigma": self.init.sigma,
        }


# Modules whose weight of two or more dimensions is stored (out, in, *receptive field), or the other way round.
_OUT_IN = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
_IN_OUT = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def describe(
    build: Build,
    width: Width,
    base_width: Width = 1,
    *,
    depth: int | None = None,
    base_depth: int | None = None,
    roles: Mapping[str, str] | None = None,
    init: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, ParamInfo]:
    """Role, fans, width multipliers and base initializer of every parameter of `build(width)`, by parameter name.

    Then those of every `Multiplier`, by module name.

    The model is built at the base width (small, on the CPU, watched to learn what each tensor is drawn from) and,
    on the meta device, at twice the base width and at `width`. A dimension grows with width if it differs between
    the first two. fan_in of a bias or a norm gain is 1; that of a convolution counts its receptive field. What is in
    the blocks is found likewise, by builds of one and of two: names of which the second has more, but for numbers.

    Args:
        build: `width -> nn.Module`; with a depth, `(width, depth=depth) -> nn.Module`.
        width: a number, or whatever `build` takes, such as one width a layer.
        base_width: like `width`; a number stands for every entry of a list. Base width 1 gives the absolute rules.
        depth, base_depth: number of blocks, and that at which lr is right; None: no rules in depth.
        roles: glob on parameter names -> role, for tensors that shapes cannot classify.
        init: glob on parameter names -> initializer at the base width (see `create_initializer`), instead of the
            model's own.

    Raises:
        ConfigError: naming the tensor, if one cannot be classified or its initializer cannot be known.
    """
    base_width = _like(width, base_width)
    in_depth = build
    if depth is not None:
        build = partial(build, depth=depth)
    with torch.random.fork_rng(devices=[]):
        base_model, own_init = built_with_initializers(lambda: build(base_width))
        wider_model, model = (_on_meta(build, w) for w in (_twice(base_width), width))
    base, wider, target = (dict(m.named_parameters()) for m in (base_model, wider_model, model))
    given_roles = _by_name("roles", {g: _parse_role(r) for g, r in (roles or {}).items()}, target)
    given_inits = _by_name(
        "init", {g: create_initializer(spec) for g, spec in (init or {}).items()}, target
    )

    result = {}
    for name, parameter in target.items():
        if not (
            name in base
            and name in wider
            and base[name].dim() == wider[name].dim() == parameter.dim()
        ):
            raise ConfigError(
                f"parameter {name!r} is not the same tensor at every width: keep names and ranks fixed"
            )
        grows = [a != b for a, b in zip(base[name].shape, wider[name].shape, strict=True)]
        role, owner = given_roles.get(name), model.get_submodule(name.rpartition(".")[0])
        in_dims, out_dims = _fans(name, parameter.shape, grows, role, owner)
        by_shape = (
            _role(grows, in_dims, out_dims)
            if len(grows) > 1
            else _role(grows, [], range(len(grows)))
        )
        base_init = given_inits.get(name, own_init[name])
        if base_init is None:
            raise ConfigError(
                f"parameter {name!r} is initialised in a way that is not understood: say how it is drawn at the base "
                f"width, e.g. init={{'{name}': {{name: normal, std: 0.02}}}}"
            )
        fan_in, fan_out = (
            math.prod(parameter.shape[d] for d in dims) for dims in (in_dims, out_dims)
        )
        base_in, base_out = (
            math.prod(base[name].shape[d] for d in dims) for dims in (in_dims, out_dims)
        )
        result[name] = ParamInfo(
            role=role or by_shape,
            shape_role=by_shape,
            shape=tuple(parameter.shape),
            fan_in=fan_in,
            fan_out=fan_out,
            m_in=fan_in / base_in,
            m_out=fan_out / base_out,
            init=base_init,
            is_embedding=isinstance(owner, nn.Embedding | nn.EmbeddingBag),
            out_first=out_dims == [0],
        )
    result |= _describe_factors(base_model, wider_model, model)
    if base_depth is None:
        return result
    if depth is None or min(depth, base_depth) < 1:
        raise ConfigError(
            f"base_depth={base_depth}: must be a whole number >= 1, beside a depth >= 1 (depth={depth})"
        )
    one, two = (
        Counter(map(block_pattern, _names(_on_meta(partial(in_depth, depth=d), base_width))))
        for d in (1, 2)
    )
    return {
        name: replace(info, m_L=depth / base_depth, in_block=True)
        if two[block_pattern(name)] > one[block_pattern(name)]
        else info
        for name, info in result.items()
    }


def _describe_factors(base: nn.Module, wider: nn.Module, target: nn.Module) -> dict[str, ParamInfo]:
    by_name = [
        {n: m for n, m in model.named_modules() if isinstance(m, Multiplier)}
        for model in (base, wider, target)
    ]
    result = {}
    for name, factor in by_name[2].items():
        own, grows = by_name[0][name], by_name[0][name].fan_in != by_name[1][name].fan_in
        result[name] = ParamInfo(
            role=Role(factor.role),
            shape_role=Role.OUTPUT if grows else Role.SCALAR,
            shape=(),
            fan_in=factor.fan_in,
            fan_out=1,
            m_in=factor.fan_in / own.fan_in,
            m_out=1.0,
            init=Initializer("constant", own.value),
        )
    return result


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in (*model.named_parameters(), *model.named_modules())]


def _role(grows: Sequence[bool], in_dims: Sequence[int], out_dims: Sequence[int]) -> Role:
    fan_in_grows, fan_out_grows = (any(grows[d] for d in dims) for dims in (in_dims, out_dims))
    if fan_in_grows:
        return Role.HIDDEN if fan_out_grows else Role.OUTPUT
    return Role.INPUT if fan_out_grows else Role.SCALAR


def _fans(
    name: str, shape: Sequence[int], grows: Sequence[bool], role: Role | None, owner: nn.Module
) -> tuple[list[int], list[int]]:
    """The dimensions that make up fan_in and fan_out."""
    dims = list(range(len(shape)))
    growing = [d for d in dims if grows[d]]
    if len(dims) < 2:
        return (
            dims if role in (Role.HIDDEN, Role.OUTPUT) else [],
            [] if role is Role.OUTPUT else dims,
        )
    if isinstance(owner, _IN_OUT):
        return [0, *dims[2:]], [1]
    if isinstance(owner, _OUT_IN) or role is Role.HIDDEN:
        return dims[1:], [0]
    if role in (Role.INPUT, Role.OUTPUT):
        rest = [d for d in dims if d not in growing]
        return (rest, growing) if role is Role.INPUT else (growing, rest)
    if not growing or role is Role.SCALAR:
        return dims[1:], [0]
    raise ConfigError(
        f"parameter {name!r} of shape {tuple(shape)} in a {type(owner).__name__} cannot be classified by its shape: "
        f"say roles={{'{name}': input}} (or hidden, output, scalar)"
    )


def _parse_role(role: str) -> Role:
    if role not in (of_tensors := [r for r in Role if r not in MULTIPLIERS]):
        raise ConfigError(f"roles={role}: must be one of {', '.join(of_tensors)}")
    return Role(role)


def _by_name(key: str, globs: Mapping[str, T], names: Mapping[str, Any]) -> dict[str, T]:
    """What the globs give to each name; where they overlap the later one wins."""
    return {name: value for glob, value in globs.items() for name in match_glob(glob, names, key)}


def match_glob(glob: str, names: Mapping[str, Any], key: str) -> list[str]:
    """The names that the glob matches; raises ConfigError, naming `key`, if there is none."""
    matches = [name for name in names if fnmatchcase(name, glob)]
    if not matches:
        raise ConfigError(
            f"{key}: {glob!r} matches no parameter; the parameters are {', '.join(names)}"
        )
    return matches


def _on_meta(build: Build, width: Width) -> nn.Module:
    try:
        with on_meta():
            return build(width)
    except (NotImplementedError, RuntimeError):  # a constructor that reads values, e.g. by .item()
        return build(width)


def _like(width: Width, base_width: Width) -> Width:
    if isinstance(width, Sequence) and isinstance(base_width, int):
        return [base_width] * len(width)
    return base_width


def _twice(width: Width) -> Width:
    return [2 * w for w in width] if isinstance(width, Sequence) else 2 * width
