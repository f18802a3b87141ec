"""Finding what each tensor of a model is: which of its dimensions grow with width."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from mupl.errors import ConfigError
from mupl.initializers import (
    OWN,
    Fill,
    Initializer,
    build_on_meta,
    build_watched,
    create_initializer,
)
from mupl.names import block_pattern, match_globs
from mupl.roles.fans import Unclassified, fans_of, role_of_growth, sizes_of
from mupl.roles.infos import (
    Info,
    Infos,
    MultiplierInfo,
    MultiplierRole,
    OwnValues,
    ParamInfo,
    Role,
    multipliers,
    root_mean_square,
)

T = TypeVar("T")
Width = int | Sequence[int]
Build = Callable[..., nn.Module]


def describe(
    build: Build,
    width: Width,
    base_width: Width,
    *,
    depth: int | None = None,
    base_depth: int | None = None,
    roles: Mapping[str, str] | None = None,
    init: Mapping[str, Mapping[str, Any]] | None = None,
    keep: Collection[str] = (),
) -> Infos:
    """Find the role, the fans and the base initializer of every parameter of `build(width)`.

    The multipliers follow, by module name; `warnings` of the result says what the rules do not
    reach. The model is built at the base width, at twice that and at `width`, the latter two on the
    meta device, and the calls that fill its tensors are watched. A dimension grows if it differs
    between any two of them. What is in a block is found likewise, from one and two blocks.

    Args:
        build: `width -> nn.Module`; with a depth, `(width, depth=depth) -> nn.Module`.
        width: a number, or where `build` takes it a list of them, such as one for each layer.
        base_width: where hyperparameters are right; a number stands for every entry of a list, and
            1 gives the absolute rules.
        depth, base_depth: number of blocks, and the one at which hyperparameters are right.
        roles: glob on parameter names -> role, for tensors that shapes cannot classify.
        init: glob on parameter names -> initializer at the base width, to draw tensors from instead
            of rescaling the model's own values.
        keep: globs on parameter names whose effective tensors stay as the model made them. Frozen
            tensors and those that hold given values, such as loaded ones, are kept anyhow.

    Raises:
        ConfigError: naming tensors that cannot be classified or shared; naming the argument, if
            `build` is no function or a width no whole number >= 1.

    Example:
        >>> build = lambda width: nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3, False))
        >>> infos = describe(build, width=32, base_width=8)
        >>> {name: str(info.role) for name, info in infos.items()}
        {'0.weight': 'input', '0.bias': 'input', '1.weight': 'output'}
    """
    _check_build(build)
    base_width = _checked_base_width(width, base_width)
    models = _build_models(build, width, base_width, depth)
    infos = _describe_tensors(models, roles, init, keep)
    infos |= _describe_multipliers(models)
    if base_depth is not None:
        m_L = _depth_ratio(depth, base_depth)
        for name in _names_in_blocks(build, base_width, infos):
            infos[name] = replace(infos[name], m_L=m_L, in_block=True)
    return Infos(infos, _warnings(models, infos))


def _refuse(unclassified: Sequence[Unclassified]) -> None:
    """Raise one error for all tensors whose role has to be said."""
    if not unclassified:
        return
    roles = ", ".join(f"'{tensor.name}': input" for tensor in unclassified)
    raise ConfigError(
        f"parameter {'; '.join(map(str, unclassified))}: cannot be classified by its shape; say "
        f"roles={{{roles}}} (or hidden, output, scalar)"
    )


def _checked_base_width(width: Width, base_width: Width) -> Width:
    """Return the base width in the form of the width, if both are widths."""
    _check_width("width", width)
    _check_width("base_width", base_width)
    if isinstance(width, Sequence) and not isinstance(base_width, Sequence):
        return [base_width] * len(width)
    return base_width


def _check_build(build: Any) -> None:
    if isinstance(build, nn.Module) or not callable(build):
        raise ConfigError(
            f"build: must be a function width -> nn.Module, not a {type(build).__name__}"
        )


def _check_width(key: str, width: Any) -> None:
    is_list = isinstance(width, Sequence) and not isinstance(width, str)
    for entry in width if is_list else [width]:
        if isinstance(entry, bool) or not isinstance(entry, Integral) or entry < 1:
            raise ConfigError(f"{key}={width}: must be a whole number >= 1, or a list of them")


def _depth_ratio(depth: int | None, base_depth: int) -> float:
    if depth is None or min(depth, base_depth) < 1:
        raise ConfigError(
            f"base_depth={base_depth}: must be a whole number >= 1, beside a depth >= 1 "
            f"(depth={depth})"
        )
    return depth / base_depth


class _Models(NamedTuple):
    """One model at three widths; only the one at the base width needs values."""

    base: nn.Module
    wider: nn.Module
    target: nn.Module
    fills: dict[str, Fill]  # of the base model
    target_fills: dict[str, Fill]  # of the target, as far as they could be watched
    at_base: bool  # whether the target has the base width
    on_meta: bool  # whether the target could be built without memory


def _build_models(build: Build, width: Width, base_width: Width, depth: int | None) -> _Models:
    if depth is not None:
        build = partial(build, depth=depth)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # sizes of own values are measured: always the same
        base, fills = build_watched(partial(build, base_width))
        wider, _, _ = build_on_meta(partial(build, _twice(base_width)))
        target, target_fills, on_meta = build_on_meta(partial(build, width))
    at_base = _listed(width) == _listed(base_width)
    return _Models(base, wider, target, fills, target_fills, at_base, on_meta)


class _Given(NamedTuple):
    """What a user says of a tensor."""

    role: Role | None
    init: Initializer | None
    keep: bool


def _given(
    names: Sequence[str],
    roles: Mapping[str, str] | None,
    init: Mapping[str, Mapping[str, Any]] | None,
    keep: Collection[str],
) -> dict[str, _Given]:
    """Return what is said of each tensor.

    Raises:
        ConfigError: on an unknown role or initializer, a glob without a match, or a tensor that is
            to be drawn and kept.
    """
    given_roles = _by_name("roles", roles, _parse_role, names)
    given_inits = _by_name("init", init, create_initializer, names)
    kept = set(match_globs("keep", keep, names))
    for name in names:
        if name in kept and name in given_inits:
            raise ConfigError(f"keep: {name!r} is drawn by init; say one of them")
    return {n: _Given(given_roles.get(n), given_inits.get(n), n in kept) for n in names}


class _Start(NamedTuple):
    """How a tensor starts: the fields of `ParamInfo` that say so."""

    init: Initializer
    own: OwnValues | None
    kept: bool
    frozen: bool


def _start(name: str, models: _Models, given: _Given) -> _Start:
    """Say how a tensor starts: drawn from what is given, kept, or from rescaled own values."""
    tensor = models.base.get_parameter(name)
    frozen = not tensor.requires_grad
    if given.init is not None:
        return _Start(given.init, None, False, frozen)
    fill = models.fills[name]
    rms = root_mean_square(tensor)
    init = fill.initializer or Initializer(OWN, std=rms)
    ratio = 1.0 if models.at_base else _ratio(fill, models.target_fills.get(name))
    own = OwnValues(rms, tensor.numel(), ratio, certain=models.at_base)
    is_given = fill.initializer is None and not fill.random
    if given.keep or is_given or frozen:
        return _Start(init, replace(own, ratio=1.0, certain=True), True, frozen)
    return _Start(init, own, False, frozen)


def _ratio(base: Fill, target: Fill | None) -> float | None:
    """Return the scale of a tensor at the base width over that at the target, if the fills tell."""
    if base.initializer is None or target is None or target.initializer is None:
        return None
    ours, theirs = base.initializer, target.initializer
    key = "std" if ours.std else "mean"
    size, other = getattr(ours, key), getattr(theirs, key)
    if size == other:
        return 1.0 if ours.name == theirs.name else None
    if size == 0 or other == 0 or ours.name != theirs.name:
        return None
    ratio = size / other
    return ratio if math.isclose(theirs.mean * ratio, ours.mean, abs_tol=1e-12) else None


def _listed(width: Width) -> list[int]:
    return list(width) if isinstance(width, Sequence) else [width]


def _describe_tensors(
    models: _Models,
    roles: Mapping[str, str] | None,
    init: Mapping[str, Mapping[str, Any]] | None,
    keep: Collection[str],
) -> dict[str, Info]:
    """Describe every tensor, by the first of its names, and readouts by shared ones."""
    uses = _uses(models)
    every_name = [name for names in uses.values() for name in names]
    given = _given(every_name, roles, init, keep)
    infos: dict[str, Info] = {}
    unclassified: list[Unclassified] = []
    for first, names in uses.items():
        try:
            by_use = {name: _describe_tensor(name, models, given[name]) for name in names}
        except Unclassified as tensor:
            unclassified.append(tensor)
        else:
            infos |= _describe_uses(first, by_use)
    _refuse(unclassified)
    return infos


def _describe_tensor(name: str, models: _Models, given: _Given) -> ParamInfo:
    shapes = _shapes(name, models)
    shape = shapes[-1]
    grows = [len(set(sizes)) > 1 for sizes in zip(*shapes, strict=True)]
    owners = [_owner(model, name) for model in models[:3]]
    fans = fans_of(name, shape, grows, given.role, owners[-1])
    sizes = []
    for owner, tensor_shape in zip(owners, shapes, strict=True):
        sizes.append(sizes_of(tensor_shape, fans, owner))
    (base_fan_in, base_fan_out), _, (fan_in, fan_out) = sizes
    shape_role = role_of_growth(sizes)
    if len(shape) < 2:  # whatever role is given to a vector, its shape says a map of 1 to n
        shape_role = Role.INPUT if any(grows) else Role.SCALAR
    return ParamInfo(
        role=given.role or shape_role,
        shape_role=shape_role,
        shape=tuple(shape),
        fan_in=fan_in,
        fan_out=fan_out,
        m_in=fan_in / base_fan_in,
        m_out=fan_out / base_fan_out,
        **_start(name, models, given)._asdict(),
        is_embedding=isinstance(owners[-1], nn.Embedding | nn.EmbeddingBag),
        out_first=fans.out_dims == [0],
    )


def _uses(models: _Models) -> dict[str, list[str]]:
    """Return the names of each tensor, one for each module that uses it, by the first of them.

    Raises:
        ConfigError: if a tensor is shared at one width and not at another, or two parameters have
            one memory, so that training one would move the other.
    """
    uses = _names_by_tensor(models.target)
    for model in (models.base, models.wider):
        if _names_by_tensor(model) != uses and set(_first_names(model)) == set(uses):
            raise ConfigError("build: shares tensors between modules at one width, not at another")
    addresses: dict[int, str] = {}
    for name, parameter in models.base.named_parameters():
        if parameter.is_meta or not parameter.numel():
            continue
        other = addresses.setdefault(parameter.data_ptr(), name)
        if other != name:
            raise ConfigError(
                f"build: {other!r} and {name!r} are two parameters of one memory; let both be the "
                "same nn.Parameter to tie them, or clone one"
            )
    return uses


def _first_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _names_by_tensor(model: nn.Module) -> dict[str, list[str]]:
    """Return the names of each tensor by the first, without second names of one module."""
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append(f"{path}.{leaf}" if path else leaf)
    return {shared[0]: shared for shared in names.values()}


def _describe_uses(first: str, by_use: Mapping[str, ParamInfo]) -> dict[str, Info]:
    """Describe a tensor of one or more uses.

    An embedding that is a readout too is drawn and trained as an embedding; the readout, a
    multiplier of its own, has the name of its module.

    Raises:
        ConfigError: if uses ask for different rules.
    """
    kinds = {(info.role, info.m_in, info.m_out) for info in by_use.values()}
    if len(kinds) == 1:
        return {first: by_use[first]}
    inputs = [info for info in by_use.values() if info.role is Role.INPUT]
    readouts = {name: info for name, info in by_use.items() if info.role is Role.OUTPUT}
    if not inputs or len(inputs) + len(readouts) < len(by_use):
        roles = ", ".join(f"{name!r} ({info.role})" for name, info in by_use.items())
        raise ConfigError(
            f"build: one tensor is used as {roles}; rules for these differ, so they cannot be tied"
        )
    found: dict[str, Info] = {first: max(inputs, key=lambda info: info.is_embedding)}
    for name, info in readouts.items():
        found[name.rpartition(".")[0]] = MultiplierInfo(
            role=MultiplierRole.TIED,
            value=1.0,
            fan_in=info.fan_in,
            m_in=info.m_in,
            grows=info.shape_role is Role.OUTPUT,
            tensor=first,
        )
    return found


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _shapes(name: str, models: _Models) -> list[torch.Size]:
    """Return the shape of a tensor in the base, the wider and the target model."""
    shapes = []
    for model in (models.base, models.wider, models.target):
        try:
            shapes.append(model.get_parameter(name).shape)
        except AttributeError:
            break
    if len(shapes) < 3 or len(set(map(len, shapes))) > 1:
        raise ConfigError(
            f"parameter {name!r} is not the same tensor at every width: keep names and ranks fixed"
        )
    return shapes


def _describe_multipliers(models: _Models) -> dict[str, MultiplierInfo]:
    at_base = multipliers(models.base)
    at_wider = multipliers(models.wider)
    infos = {}
    for name, module in multipliers(models.target).items():
        if name not in at_base or name not in at_wider:
            raise ConfigError(f"module {name!r} is not there at every width: keep names fixed")
        base = at_base[name]
        infos[name] = MultiplierInfo(
            role=MultiplierRole(module.multiplier_role),
            value=base.value,
            fan_in=module.fan_in,
            m_in=module.fan_in / base.fan_in,
            grows=len({base.fan_in, at_wider[name].fan_in, module.fan_in}) > 1,
        )
    return infos


def _names_in_blocks(build: Build, base_width: Width, infos: Mapping[str, Info]) -> list[str]:
    """Return the names of which two blocks have more than one has, ignoring indices in names."""
    counts = []
    for depth in (1, 2):
        model, _, _ = build_on_meta(partial(build, base_width, depth=depth))
        names = [name for name, _ in (*model.named_parameters(), *model.named_modules())]
        counts.append(Counter(map(block_pattern, names)))
    one, two = counts
    return [name for name in infos if two[block_pattern(name)] > one[block_pattern(name)]]


def _warnings(models: _Models, infos: Mapping[str, Info]) -> list[str]:
    """Say what was found that the rules do not reach."""
    warnings = []
    if not models.on_meta:
        warnings.append(
            "build: the constructor reads values of parameters, so that the model was built in "
            "memory to be described"
        )
    kept = [name for name, info in infos.items() if isinstance(info, ParamInfo) and info.kept]
    if kept:
        warnings.append(
            f"kept as the model made them, since they are frozen or hold given values: "
            f"{_some(kept)}; say init= for those to draw"
        )
    has_multiplier = any(info.row == MultiplierRole.ATTENTION for info in infos.values())
    if not has_multiplier and (names := _growing_heads(models)):
        warnings.append(
            f"attention: the size of heads grows with width in {_some(names)}, and no "
            "mupl.nn.multipliers.Multiplier('attention') scales their logits by 1/d_head: keep "
            "d_head and let the number of heads grow, or put one into the model"
        )
    return warnings


# What modules call the size of a head: torch, and several of transformers
_HEAD_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim", "d_head")


def _growing_heads(models: _Models) -> list[str]:
    """Return the modules with attention heads whose size grows with width."""
    sizes: dict[str, set[int]] = {}
    for model in models[:3]:
        for name, module in model.named_modules():
            for attribute in _HEAD_SIZES:
                size = getattr(module, attribute, None)
                if isinstance(size, int):
                    sizes.setdefault(name, set()).add(size)
    return [name for name, found in sizes.items() if len(found) > 1]


def _some(names: Sequence[str], most: int = 3) -> str:
    """List a few names."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _parse_role(role: str) -> Role:
    if role not in list(Role):
        raise ConfigError(f"roles={role}: must be one of {', '.join(Role)}")
    return Role(role)


def _by_name(
    key: str, globs: Mapping[str, Any] | None, parse: Callable[[Any], T], names: Sequence[str]
) -> dict[str, T]:
    """Return what the globs give to each name, parsed; where they overlap the later one wins."""
    given = {}
    for glob, value in (globs or {}).items():
        parsed = parse(value)
        for name in match_globs(key, [glob], names):
            given[name] = parsed
    return given


def _twice(width: Width) -> Width:
    if isinstance(width, Sequence):
        return [2 * w for w in width]
    return 2 * width
