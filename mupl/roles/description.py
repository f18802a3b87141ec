"""Finding what each tensor of a model is: which of its dimensions grow with width."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from torch import nn

from mupl.errors import ConfigError
from mupl.initializers import OWN, Fill, Initializer, create_initializer
from mupl.names import block_pattern, is_in_blocks, match_globs, some_of
from mupl.roles.attention import describe_attention
from mupl.roles.branches import describe_branches
from mupl.roles.fans import Unclassified, fans_of, role_of_growth, sizes_of, transposed_groups
from mupl.roles.infos import (
    Info,
    Infos,
    Insertion,
    InsertionKind,
    MultiplierInfo,
    MultiplierRole,
    OwnValues,
    ParamInfo,
    Role,
    multipliers,
)
from mupl.roles.parts import add_parts
from mupl.roles.readouts import readout_scale
from mupl.roles.shapes import (
    BaseTensor,
    by_name,
    changes,
    check_same_names,
    uses,
)
from mupl.roles.sources import Base, Build, Sources, Width, find_sources

T = TypeVar("T")


def describe(
    build: Build | nn.Module,
    width: Width = None,
    base_width: Width = None,
    *,
    wider: Width = None,
    base: Base | None = None,
    delta: nn.Module | None = None,
    depth: int | None = None,
    base_depth: int | None = None,
    roles: Mapping[str, str] | None = None,
    init: Mapping[str, Mapping[str, Any]] | None = None,
    keep: Collection[str] = (),
    residual: Collection[str] | None = None,
) -> Infos:
    """Find the role, the fans and the base initializer of every parameter of a model.

    The multipliers follow, by module name; `warnings` of the result says what the rules do not
    reach. A dimension grows if it differs between any two of the base model, which is built with
    values, a wider one and the one to describe. docs/your_model.md shows what each may be.

    Args:
        build: `width -> nn.Module`; with a depth, `(width, depth=depth) -> nn.Module`. Or a model.
        width, base_width: whatever `build` takes: numbers, lists of one a layer, config objects.
            A base width of 1 gives the absolute rules.
        wider: a third width; twice the base width if that is a number and none is given.
        base: in place of `base_width`: a model, what `mupl.shapes` returns, or the path to it.
        delta: beside a base model, a wider one.
        depth, base_depth: number of blocks, and the one at which hyperparameters are right.
        roles: glob on parameter names -> role, for tensors that shapes cannot classify.
        init: glob -> initializer at the base width, to draw from instead of rescaling own values.
        keep: globs on names of tensors that act as the model made them; frozen and given ones do.
        residual: globs on modules that return residual branches; None: they are found in the code.

    Raises:
        ConfigError: naming tensors or an argument, and what would be right.

    Example:
        >>> build = lambda width: nn.Sequential(nn.Linear(6, width), nn.Linear(width, 3, False))
        >>> infos = describe(build, width=32, base_width=8)
        >>> {name: str(info.role) for name, info in infos.items()}
        {'0.weight': 'input', '0.bias': 'input', '1.weight': 'output'}
    """
    sources = find_sources(build, width, base_width, wider, base, delta, depth, base_depth)
    infos = _describe_tensors(sources, roles, init, keep) | _describe_multipliers(sources)
    add_parts(infos, sources.target.model)
    warnings = _warnings(sources, infos) + _add_insertions(infos, sources, residual)
    if sources.m_L is not None:
        _set_depth(infos, sources.shapes.in_blocks, sources.m_L)
    return Infos(infos, warnings)


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
    if isinstance(keep, str):
        raise ConfigError(f"keep={keep}: must be a list of globs, such as keep=[{keep!r}]")
    given_roles = _by_name("roles", roles, _parse_role, names)
    given_inits = _by_name("init", init, create_initializer, names)
    kept = set(match_globs("keep", keep, names))
    for name in names:
        if name in kept and name in given_inits:
            raise ConfigError(f"keep: {name!r} is drawn by init; say one of them")
    return {n: _Given(given_roles.get(n), given_inits.get(n), n in kept) for n in names}


class _Compared(NamedTuple):
    """One use of a tensor, and what the base model says of the tensor."""

    name: str
    parameter: nn.Parameter
    owner: nn.Module
    fill: Fill | None  # at the described width, if that could be watched
    base: BaseTensor
    at_base: bool

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Its shapes at the base width, a wider one if there is one, and the described one."""
        return [*self.base.shapes, tuple(self.parameter.shape)]

    @property
    def grows(self) -> list[bool]:
        """Whether each dimension differs between any two widths."""
        return [len(set(sizes)) > 1 for sizes in zip(*self.shapes, strict=True)]


class _Start(NamedTuple):
    """How a tensor starts: the fields of `ParamInfo` that say so."""

    init: Initializer
    own: OwnValues | None
    kept: bool
    frozen: bool


def _start(tensor: _Compared, given: _Given, usual: tuple[float, ...]) -> _Start:
    """Say how a tensor starts: drawn from what is given, kept, or from rescaled own values.

    Args:
        usual: see `OwnValues`.
    """
    frozen = not tensor.parameter.requires_grad
    if given.init is not None:
        return _Start(given.init, None, False, frozen)
    fill = tensor.base.fill
    rms = tensor.base.rms
    is_given = fill.initializer is None and not fill.random
    kept = given.keep or is_given or frozen
    if rms is None:
        if not kept:
            raise _Unsized(tensor.name)
        rms = 0.0
    init = fill.initializer or Initializer(OWN, std=rms)
    own = OwnValues(
        rms=rms,
        size=math.prod(tensor.base.shapes[0]),
        ratio=1.0,
        certain=True,
        constant=init.name == "constant" and math.isclose(abs(init.mean), rms, abs_tol=1e-12),
        usual=usual,
    )
    if not kept and not tensor.at_base:
        own = replace(own, ratio=_ratio(fill, tensor.fill), certain=False)
    return _Start(init, own, kept, frozen)


def _usual_ratios(base: tuple[int, int], target: tuple[int, int]) -> tuple[float, ...]:
    """Return the ratios of std, base over target, of usual distributions of a matrix.

    A constant std, and those that fall with the root of fan_in, fan_out, their sum and product.

    Args:
        base, target: fan_in and fan_out.
    """
    if 1 in base:
        return ()
    m_in = target[0] / base[0]
    m_out = target[1] / base[1]
    squares = (1.0, m_in, m_out, sum(target) / sum(base), m_in * m_out)
    return tuple(math.sqrt(square) for square in squares)


def _ratio(base: Fill, target: Fill | None) -> float | None:
    """Return the scale of a tensor at the base width over that at the target, if the fills tell."""
    if base.initializer is None or target is None or target.initializer is None:
        return None
    ours = base.initializer
    theirs = target.initializer
    key = "std" if ours.std else "mean"
    size = getattr(ours, key)
    other = getattr(theirs, key)
    if size == other:
        return 1.0 if ours.name == theirs.name else None
    if size == 0 or other == 0 or ours.name != theirs.name:
        return None
    ratio = size / other
    return ratio if math.isclose(theirs.mean * ratio, ours.mean, abs_tol=1e-12) else None


def _describe_tensors(
    sources: Sources,
    roles: Mapping[str, str] | None,
    init: Mapping[str, Mapping[str, Any]] | None,
    keep: Collection[str],
) -> dict[str, Info]:
    """Describe every tensor, by the first of its names, and readouts by shared ones."""
    compared = _compare(sources)
    given = _given(list(compared), roles, init, keep)
    infos: dict[str, Info] = {}
    unclassified: list[Unclassified] = []
    unsized: list[str] = []
    for first, names in uses(sources.target.model).items():
        try:
            by_use = {name: _describe_tensor(compared[name], given[name]) for name in names}
        except Unclassified as tensor:
            unclassified.append(tensor)
        except _Unsized as tensor:
            unsized.append(str(tensor))
        else:
            infos |= _describe_uses(first, by_use)
    if unclassified:
        raise _unclassified_error(unclassified)
    if unsized:
        raise ConfigError(
            f"base: is on the meta device, and no module's reset_parameters fills "
            f"{some_of(unsized)}; build the base with values, or say init= or keep="
        )
    return infos


def _unclassified_error(tensors: Sequence[Unclassified]) -> ConfigError:
    """Make one error of all tensors whose role has to be said, once for all blocks."""
    proposals: dict[str, set[Role]] = {}
    for tensor in tensors:
        proposals.setdefault(block_pattern(tensor.name), set()).add(tensor.proposal)
    found: dict[str, Unclassified] = {}
    for tensor in tensors:
        pattern = block_pattern(tensor.name)
        found.setdefault(pattern if len(proposals[pattern]) == 1 else tensor.name, tensor)
    listed = "; ".join(f"{glob!r} {tensor}" for glob, tensor in found.items())
    roles = {glob: str(tensor.proposal) for glob, tensor in found.items()}
    return ConfigError(
        f"parameter {listed}: cannot be classified by its shape; if it is what names and shapes "
        f"suggest, say roles={roles} (else input, hidden, output or scalar)"
    )


class _Unsized(Exception):
    """A tensor of which the size of own values at the base width is not known."""


def _compare(sources: Sources) -> dict[str, _Compared]:
    """Find what the base model says of each use of each tensor.

    Raises:
        ConfigError: if the base model has other names or ranks, shares tensors otherwise, or
            differs in no size.
    """
    shapes = sources.shapes
    target = sources.target
    rows: dict[str, BaseTensor] = {}
    for row in shapes.tensors.values():
        rows |= dict.fromkeys(row.names, row)
    shared = {first: row.names for first, row in shapes.tensors.items()}
    here = uses(target.model)
    check_same_names(shared, here, block_pattern if sources.across_blocks else str)
    look_up = by_name(rows, sources.across_blocks)
    compared = {}
    for name in (name for names in here.values() for name in names):
        parameter = target.model.get_parameter(name)
        owner = target.model.get_submodule(name.rpartition(".")[0])
        base = look_up(name)
        assert base is not None
        if len(base.shapes[0]) != parameter.ndim:
            raise changes(name)
        compared[name] = _Compared(name, parameter, owner, target.fills.get(name), base, False)
    is_same = all(tensor.base.shapes[0] == tensor.shapes[-1] for tensor in compared.values())
    if not any(any(tensor.grows) for tensor in compared.values()):
        has_wider = any(len(row.shapes) > 1 for row in shapes.tensors.values())
        if sources.m_L is None or not has_wider:  # else it may be meant to grow in depth alone
            raise ConfigError(
                "wider: the model has the sizes of its base, so that nothing tells what grows with "
                "width; make it use its width, or say wider=, a third width (beside a base model: "
                "delta=, a wider one)"
            )
    at_base = target.is_base
    if at_base is None:  # own values may depend on depth, too
        at_base = is_same and sources.m_L in (None, 1)
    return {name: tensor._replace(at_base=at_base) for name, tensor in compared.items()}


def _describe_tensor(tensor: _Compared, given: _Given) -> ParamInfo:
    shapes = tensor.shapes
    grows = tensor.grows
    owner = tensor.owner
    shape = shapes[-1]
    fans = fans_of(tensor.name, shape, grows, given.role, owner)
    groups = [*tensor.base.groups, transposed_groups(owner)]
    sizes = [sizes_of(shape, fans, count) for shape, count in zip(shapes, groups, strict=True)]
    (base_fan_in, base_fan_out), (fan_in, fan_out) = sizes[0], sizes[-1]
    shape_role = role_of_growth(sizes)
    batch = fans.batch_dims
    if len(shape) - batch < 2:  # whatever role is given to a vector, it is a map of 1 to n
        shape_role = Role.INPUT if any(grows[batch:]) else Role.SCALAR
    return ParamInfo(
        role=given.role or shape_role,
        shape_role=shape_role,
        shape=shape,
        fan_in=fan_in,
        fan_out=fan_out,
        m_in=fan_in / base_fan_in,
        m_out=fan_out / base_fan_out,
        **_start(tensor, given, _usual_ratios(sizes[0], sizes[-1]))._asdict(),
        is_embedding=isinstance(owner, nn.Embedding | nn.EmbeddingBag),
        out_first=fans.out_dims == [batch],
        m_copies=math.prod(shape[:batch]) / math.prod(shapes[0][:batch]),
        copies_grow=any(grows[:batch]),
        batch_dims=batch,
    )


def _describe_uses(first: str, by_use: Mapping[str, ParamInfo]) -> dict[str, Info]:
    """Describe a tensor of one or more uses.

    An embedding that is a readout too is drawn and trained as an embedding; the readout, a
    multiplier of its own, has the name of its module.

    Raises:
        ConfigError: if uses ask for different rules.
    """
    kinds = {(info.role, info.m_in, info.m_out, info.m_copies) for info in by_use.values()}
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
        path = name.rpartition(".")[0]
        found[path] = MultiplierInfo(
            role=MultiplierRole.TIED,
            value=1.0,
            fan_in=info.fan_in,
            m_in=info.m_in,
            grows=info.shape_role is Role.OUTPUT,
            tensor=first,
            insertion=Insertion(InsertionKind.WEIGHT, path),
        )
    return found


def _describe_multipliers(sources: Sources) -> dict[str, Info]:
    look_up = by_name(sources.shapes.multipliers, sources.across_blocks)
    infos: dict[str, Info] = {}
    for name, module in multipliers(sources.target.model).items():
        base = look_up(name)
        if base is None:
            raise ConfigError(f"module {name!r} is not there at every width: keep names fixed")
        infos[name] = MultiplierInfo(
            role=MultiplierRole(module.multiplier_role),
            value=base.value,
            fan_in=module.fan_in,
            m_in=module.fan_in / base.fan_ins[0],
            grows=len({*base.fan_ins, module.fan_in}) > 1,
        )
    return infos


def _warnings(sources: Sources, infos: Mapping[str, Info]) -> list[str]:
    """Say what was found that the rules do not reach."""
    warnings = []
    if not sources.target.on_meta:
        warnings.append(
            "build: the constructor reads values of parameters, so that the model was built in "
            "memory to be described"
        )
    kept = [name for name, info in infos.items() if isinstance(info, ParamInfo) and info.kept]
    if kept:
        warnings.append(
            f"kept as the model made them, since they are frozen or hold given values: "
            f"{some_of(kept)}; say init= for those to draw"
        )
    return warnings


def _add_insertions(
    infos: dict[str, Info], sources: Sources, residual: Collection[str] | None
) -> list[str]:
    """Describe multipliers that the model has no module for; say what was not understood."""
    warnings = _add_attention(infos, sources)
    warnings += _set_own_scales_of_readouts(infos, sources)
    warnings += _add_branches(infos, sources, residual)
    return warnings


def _add_attention(infos: dict[str, Info], sources: Sources) -> list[str]:
    """Describe the scales of attention whose heads grow; say where that is not known."""
    look_up = by_name(sources.shapes.heads, sources.across_blocks)
    found, unscaled = describe_attention(sources.target.model, look_up)
    infos |= found
    if not unscaled:
        return []
    return [
        f"attention: the size of heads grows with width in {some_of(unscaled)}, and it is not "
        "known how to multiply the logits there, so they grow with width in training: keep d_head "
        "and let the number of heads grow, or put a mupl.nn.multipliers.Multiplier('attention') "
        "into the module"
    ]


def _set_own_scales_of_readouts(infos: dict[str, Info], sources: Sources) -> list[str]:
    """Note by what the model itself multiplies its tied readouts; say where that is not known."""
    unknown = []
    for path, info in infos.items():
        if not isinstance(info, MultiplierInfo) or info.tensor is None:
            continue
        assert info.insertion is not None
        base = sources.shapes.readouts.get(path)
        own = readout_scale(sources.target.model, path)
        if base is None or own is None:
            unknown.append(path)
        else:
            infos[path] = replace(info, value=base, insertion=replace(info.insertion, own=own))
    if not unknown:
        return []
    return [
        f"tied readout: it is not known whether the model multiplies the logits of "
        f"{some_of(unknown)} by a power of width, beside the rule's multiplier; if it does, take "
        "that out of the model"
    ]


def _add_branches(
    infos: dict[str, Info], sources: Sources, globs: Collection[str] | None
) -> list[str]:
    """Describe residual branches, where there are rules in depth; say where none was found."""
    if sources.m_L is None:
        if globs is not None:
            raise ConfigError("residual: multipliers of branches need a depth and a base_depth")
        return []
    in_blocks = sources.shapes.in_blocks
    branches, empty = describe_branches(sources.target.model, globs, in_blocks)
    infos |= branches
    if not branches or not empty:
        return []
    return [
        f"residual: no residual branch was found in {some_of(empty)}, so none is scaled with depth "
        "there; name the branches of all blocks by residual=[globs]"
    ]


def _set_depth(infos: dict[str, Info], in_blocks: Collection[str], m_L: float) -> None:
    """Give tensors and multipliers in blocks the ratio of depths."""
    for name, info in infos.items():
        path = name
        if isinstance(info, MultiplierInfo) and info.insertion is not None:
            path = info.insertion.module
        if is_in_blocks(path, in_blocks):
            infos[name] = replace(info, m_L=m_L, in_block=True)


def _parse_role(role: str) -> Role:
    if role not in list(Role):
        raise ConfigError(f"roles={role}: must be one of {', '.join(Role)}")
    return Role(role)


def _by_name(
    key: str, globs: Mapping[str, Any] | None, parse: Callable[[Any], T], names: Sequence[str]
) -> dict[str, T]:
    """Return what the globs give to each name, parsed; where they overlap the later one wins."""
    given = {}
    if not isinstance(globs, Mapping | None):
        raise ConfigError(f"{key}={globs}: must be a dict from globs on names, {key}={{glob: ...}}")
    for glob, value in (globs or {}).items():
        parsed = parse(value)
        for name in match_globs(key, [glob], names):
            given[name] = parsed
    return given
