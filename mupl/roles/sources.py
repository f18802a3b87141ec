"""Where a base model and the one to describe come from: functions, models or a saved file."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Number
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import nn

from mupl.errors import ConfigError
from mupl.initializers import Fill, build_on_meta, build_watched
from mupl.roles.infos import multipliers, root_mean_square
from mupl.roles.live import fills_at_base, fills_of_modules
from mupl.roles.shapes import Shapes, patterns_in_blocks, shapes_of, uses

Width = Any  # a whole number, a list of one for each layer, or a config object
Build = Callable[..., nn.Module]
Base = nn.Module | Shapes | str | PathLike[str]


def shapes(
    build: Build | nn.Module,
    base_width: Width = None,
    wider: Width = None,
    *,
    delta: nn.Module | None = None,
    depth: int | None = None,
) -> Shapes:
    """Find what has to be known of a model at its base size, to describe it at any other.

    Args:
        build: `width -> nn.Module`; with a depth, `(width, depth=depth) -> nn.Module`. Or a base
            model itself.
        base_width: where hyperparameters are right: whatever `build` takes, such as a number or a
            config object.
        wider: another one, at which all that grows with width differs. For numbers twice the base
            width, if it is not given; else what differs in the model that is described grows.
        delta: beside a base model: the same model at another width.
        depth: number of blocks, if hyperparameters are to be scaled in depth too.

    Raises:
        ConfigError: if the models differ in more than sizes, or an argument does not fit.

    Example:
        >>> found = shapes(lambda width: nn.Linear(6, width), 8)
        >>> found.tensors["weight"].shapes
        ((8, 6), (16, 6))
        >>> shapes(nn.Linear(6, 8), delta=nn.Linear(6, 32)).tensors["weight"].shapes
        ((8, 6), (32, 6))
    """
    if isinstance(build, nn.Module):
        _refuse("is for a function; a model has its own", base_width=base_width, wider=wider)
        _refuse("is for a function; say it where another model is described", depth=depth)
        return _shapes_of_models(build, delta)
    _refuse("belongs to a base model; say wider= for a function", delta=delta)
    check_build(build, base_width, depth)
    _check_width("base_width", base_width)
    found = _shapes_of_builds(_at_depth(build, depth), base_width, wider)
    if depth is None:
        return found
    return replace(found, depth=depth, in_blocks=_blocks_of_build(build, base_width))


class Target(NamedTuple):
    """The model that is described; it needs no values."""

    model: nn.Module
    fills: Mapping[str, Fill]  # as far as they could be watched
    on_meta: bool  # whether it could be built without memory
    is_base: bool | None  # whether it is the base model; None: if sizes are the same


class Sources(NamedTuple):
    """All that a description follows from."""

    shapes: Shapes  # of the base model
    target: Target
    m_L: float | None  # depth over base depth, if there are both
    across_blocks: bool  # whether the base model may have fewer blocks


def find_sources(
    build: Build | nn.Module,
    width: Width,
    base_width: Width,
    wider: Width,
    base: Base | None,
    delta: nn.Module | None,
    depth: int | None,
    base_depth: int | None,
) -> Sources:
    """Find the base model and the one to describe from the arguments of `mupl.describe`."""
    if base is not None:
        _refuse("base= has it already; say one of them", base_width=base_width, wider=wider)
        found = _as_shapes(base, delta)
        if isinstance(build, nn.Module) and base_depth is None and found.depth is None:
            _refuse("needs base_depth, the number of blocks of the base", depth=depth)
        target = _find_target(build, width, depth)
        return _in_depth(found, target, depth, base_depth)
    _refuse("belongs to a model as base=; say wider= for a function", delta=delta)
    check_build(build, width, depth)
    base_width = _checked_base_width(width, base_width)
    at_depth = _at_depth(build, depth)
    found = _shapes_of_builds(at_depth, base_width, wider)
    target = _build_target(at_depth, width, is_base=_is_same(width, base_width))
    if base_depth is None:
        return Sources(found, target, None, False)
    m_L = _depth_ratio(depth, base_depth)
    found = replace(found, in_blocks=_blocks_of_build(build, base_width))
    return Sources(found, target, m_L, False)


def _refuse(why: str, **given: Any) -> None:
    """Refuse arguments that are given."""
    for key, value in given.items():
        if value is not None:
            raise ConfigError(f"{key}: {why}")


# --- a function width -> nn.Module


def check_build(build: Any, width: Width, depth: int | None = None) -> None:
    """Refuse what is no function that takes a width, and a depth if one is given."""
    if isinstance(build, nn.Module) or not callable(build):
        hint = "; to describe a model itself say base=" if isinstance(build, nn.Module) else ""
        raise ConfigError(
            f"build: must be a function width -> nn.Module, not a {type(build).__name__}{hint}"
        )
    options = {} if depth is None else {"depth": depth}
    try:
        inspect.signature(build).bind(width, **options)
    except ValueError:  # a builtin has no signature
        return
    except TypeError as error:
        said = "width" if depth is None else "width, depth"
        raise ConfigError(f"build: must be a function {said} -> nn.Module ({error})") from error


def _is_config(width: Any) -> bool:
    """Say whether a width is an object that says more than a number, such as a config."""
    return not isinstance(width, str | bytes | Sequence | Number | nn.Module | type | None)


def _check_width(key: str, width: Any) -> None:
    if _is_config(width):
        return
    is_list = isinstance(width, Sequence) and not isinstance(width, str)
    for entry in width if is_list else [width]:
        if isinstance(entry, bool) or not isinstance(entry, Integral) or entry < 1:
            raise ConfigError(f"{key}={width}: must be a whole number >= 1, or a list of them")


def _check_same_kind(key: str, width: Any, other: Any) -> None:
    if _is_config(width) != _is_config(other):
        raise ConfigError(
            f"{key}={other}: must be a {'config' if _is_config(width) else 'number'}, as the other "
            "width is"
        )


def _checked_base_width(width: Width, base_width: Width) -> Width:
    """Return the base width in the form of the width, if both are widths."""
    _check_width("width", width)
    _check_width("base_width", base_width)
    _check_same_kind("base_width", width, base_width)
    return _in_form_of(width, base_width)


def _in_form_of(width: Width, other: Width) -> Width:
    """Return another width as a list of one for each layer, where the width is one."""
    if isinstance(width, Sequence) and not isinstance(other, Sequence):
        return [other] * len(width)
    return other


def _checked_wider(base_width: Width, wider: Width) -> Width:
    """Return a width at which all that grows differs from the base; None for a config alone."""
    if wider is None:
        if isinstance(base_width, Sequence):
            return [2 * entry for entry in base_width]
        return None if _is_config(base_width) else 2 * base_width
    _check_width("wider", wider)
    _check_same_kind("wider", base_width, wider)
    return _in_form_of(base_width, wider)


def _is_same(width: Width, base_width: Width) -> bool:
    if isinstance(width, Sequence):
        return list(width) == list(base_width)
    return bool(width == base_width)


def _at_depth(build: Build, depth: int | None) -> Build:
    return build if depth is None else partial(build, depth=depth)


def _shapes_of_builds(build: Build, base_width: Width, wider: Width) -> Shapes:
    """Build the base model, and a wider one without memory."""
    wider = _checked_wider(base_width, wider)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # sizes of own values are measured: always the same
        base, fills = build_watched(partial(build, base_width))
        more = None if wider is None else build_on_meta(partial(build, wider))[0]
    _check_memory(base)
    sizes = {name: root_mean_square(tensor) for name, tensor in base.named_parameters()}
    return shapes_of(base, more, fills, sizes)


def _build_target(build: Build, width: Width, is_base: bool | None = None) -> Target:
    with torch.random.fork_rng(devices=[]):
        model, fills, on_meta = build_on_meta(partial(build, width))
    return Target(model, fills, on_meta, is_base)


def _blocks_of_build(build: Build, base_width: Width) -> tuple[str, ...]:
    """Return the patterns of the names of which two blocks have more than one."""
    names = []
    for depth in (1, 2):
        model, _, _ = build_on_meta(partial(build, base_width, depth=depth))
        named = (*model.named_parameters(), *model.named_modules())
        names.append([name for name, _ in named])
    return patterns_in_blocks(*names)


def _check_memory(base: nn.Module) -> None:
    """Refuse two parameters of one memory: to train one would move the other."""
    addresses: dict[int, str] = {}
    for name, parameter in base.named_parameters():
        if parameter.is_meta or not parameter.numel():
            continue
        other = addresses.setdefault(parameter.data_ptr(), name)
        if other != name:
            raise ConfigError(
                f"build: {other!r} and {name!r} are two parameters of one memory; let both be the "
                "same nn.Parameter to tie them, or clone one"
            )


# --- models, and a saved file


def _as_shapes(base: Base, delta: nn.Module | None) -> Shapes:
    if isinstance(base, nn.Module):
        return _shapes_of_models(base, delta)
    _refuse("belongs to a model as base=; say wider= to mupl.shapes", delta=delta)
    if isinstance(base, Shapes):
        return base
    if isinstance(base, str | PathLike):
        return Shapes.load(base)
    raise ConfigError(
        f"base: must be a model, what mupl.shapes returns or the path where that is saved, not a "
        f"{type(base).__name__}"
    )


def _shapes_of_models(base: nn.Module, delta: nn.Module | None) -> Shapes:
    if delta is not None and not isinstance(delta, nn.Module):
        raise ConfigError(f"delta: must be a model as base is, not a {type(delta).__name__}")
    _check_memory(base)
    fills, sizes = fills_at_base(base)
    return shapes_of(base, delta, fills, sizes)


def _find_target(build: Build | nn.Module, width: Width, depth: int | None) -> Target:
    """Take the model to describe as it is, or build it."""
    if isinstance(build, nn.Module):
        _refuse("is for a function; the model has its own", width=width)
        _, fills = fills_of_modules(build, "meta")
        return Target(build, fills, on_meta=True, is_base=None)
    check_build(build, width, depth)
    _check_width("width", width)
    return _build_target(_at_depth(build, depth), width)


def _in_depth(found: Shapes, target: Target, depth: int | None, base_depth: int | None) -> Sources:
    """Say what scales with depth, for a base model of another depth."""
    if base_depth is not None and found.depth not in (None, base_depth):
        raise ConfigError(f"base_depth={base_depth}: base= was made with depth={found.depth}")
    base_depth = base_depth or found.depth
    if base_depth is None or (depth is None and found.depth is not None):
        return Sources(found, target, None, False)
    m_L = _depth_ratio(depth, base_depth)
    if not found.in_blocks:
        here = [*uses(target.model), *multipliers(target.model)]
        blocks = patterns_in_blocks([*found.tensors, *found.multipliers], here)
        if m_L != 1 and not blocks:
            raise ConfigError(
                f"depth={depth}, base_depth={base_depth}: the model has as many blocks as its base"
            )
        found = replace(found, in_blocks=blocks)
    return Sources(found, target, m_L, True)


def _depth_ratio(depth: int | None, base_depth: int) -> float:
    if depth is None or min(depth, base_depth) < 1:
        raise ConfigError(
            f"base_depth={base_depth}: must be a whole number >= 1, beside a depth >= 1 "
            f"(depth={depth})"
        )
    return depth / base_depth
