"""What each tensor of a model is: which of its dimensions grow with width, found from shapes."""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

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

T = TypeVar("T")
Width = int | Sequence[int]
Build = Callable[..., nn.Module]


class Role(StrEnum):
    """Which dimensions of a tensor grow with width, when it is seen as a linear map.

    Example:
        >>> Role("hidden") is Role.HIDDEN
        True
    """

    INPUT = "input"  # fan_out alone; embeddings, and biases and gains of layers that grow
    HIDDEN = "hidden"  # fan_in and fan_out
    OUTPUT = "output"  # fan_in alone
    SCALAR = "scalar"  # neither


class MultiplierRole(StrEnum):
    """What a number of the model, a `mupl.nn.multipliers.Multiplier`, multiplies."""

    ATTENTION = "attention"  # queries, and so attention logits
    RESIDUAL = "residual"  # a residual branch
    TIED = "tied"  # the logits of a readout whose matrix is the embedding's


# Rows of a table for tensors whose rule differs from the one of their role, and that role.
# A vector is a tensor of fewer than two dimensions: a bias, a gain, a number.
SPECIAL_ROWS = {
    "input_embedding": Role.INPUT,
    "input_vector": Role.INPUT,
    "scalar_vector": Role.SCALAR,
}


@dataclass(frozen=True)
class OwnValues:
    """What the model itself puts into a tensor, and how large that is at the base width.

    Args:
        rms: root mean square at the base width.
        size: number of entries there.
        ratio: what brings own values at the described width to the scale that they have at the
            base width, where the calls that fill the tensor tell; else it is measured.
        certain: whether `ratio` holds in any case, as at the base width and for kept tensors. Else
            values that belie it, such as those of a constructor that fills nothing on the meta
            device, are measured.
    """

    rms: float
    size: int
    ratio: float | None
    certain: bool

    def ratio_of(self, values: Tensor) -> float:
        """Return the ratio for a tensor's own values."""
        if self.ratio is not None and self.certain:
            return self.ratio
        rms = root_mean_square(values)
        if rms == 0 or self.rms == 0:
            return 1.0
        measured = self.rms / rms
        if self.ratio is None:
            return measured
        sizes = (self.size, values.numel())
        noise = math.sqrt(sum(0.5 / size for size in sizes))  # relative, of two normal samples
        is_belied = min(sizes) > 32 and abs(measured / self.ratio - 1) > 6 * noise
        return measured if is_belied else self.ratio


def root_mean_square(values: Tensor) -> float:
    """Return the root mean square of a tensor's entries."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    norm = torch.linalg.vector_norm(values.detach(), dtype=dtype).item()
    return norm / math.sqrt(max(values.numel(), 1))


@dataclass(frozen=True)
class ParamInfo:
    """One tensor as the rules see it.

    Args:
        role: which dimensions grow; a user's word goes before what the shapes say.
        shape_role: what the shapes say.
        shape: of the tensor at the width that is described.
        fan_in, fan_out: products of the dimensions that are inputs and outputs; fan_in of a
            bias or a gain is 1.
        m_in, m_out: fan_in and fan_out over their values at the base width.
        init: what the tensor is drawn from at the base width.
        own: the model's own values, which are rescaled; None: it is drawn anew from `init`.
        kept: whether the effective tensor stays as the model made it, as loaded ones do.
        frozen: whether it is not trained.
        m_L: depth over base depth for a tensor in a block, else 1.
        in_block: whether the number of such tensors grows with depth.
        is_embedding: whether it is the matrix of an embedding.
        out_first: whether it is stored as (out, in, *receptive field).

    Example:
        >>> info = describe(lambda width: nn.Linear(6, width), width=32, base_width=8)["weight"]
        >>> info.fan_in, info.fan_out, info.m_in, info.m_out
        (6, 32, 1.0, 4.0)
    """

    role: Role
    shape_role: Role
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    m_in: float
    m_out: float
    init: Initializer
    own: OwnValues | None = None
    kept: bool = False
    frozen: bool = False
    m_L: float = 1.0
    in_block: bool = False
    is_embedding: bool = False
    out_first: bool = True

    @property
    def row(self) -> str:
        """The row of a rule table for this tensor: one of `SPECIAL_ROWS`, or the role."""
        row = str(self.role)
        if self.is_embedding:
            row += "_embedding"
        elif len(self.shape) < 2:
            row += "_vector"
        return row if row in SPECIAL_ROWS else self.role

    @property
    def symbols(self) -> dict[str, float]:
        """The values of those `mupl.parametrization.cells.SYMBOLS` that follow from the tensor."""
        return {
            "m_in": self.m_in,
            "m_out": self.m_out,
            "m_L": self.m_L,
            "fan_in": self.fan_in,
            "fan_out": self.fan_out,
            "sigma": self.init.sigma,
        }


@dataclass(frozen=True)
class MultiplierInfo:
    """One number of the model, a `mupl.nn.multipliers.Multiplier`, as the rules see it.

    Args:
        role: what it multiplies.
        value: at the base size.
        fan_in: number of terms of the sum that it scales.
        m_in: fan_in over its value at the base width.
        grows: whether fan_in grows with width.
        tensor: of a readout by a tensor that it shares with an embedding: the name of that.
        m_L, in_block: as in `ParamInfo`.
    """

    role: MultiplierRole
    value: float
    fan_in: int
    m_in: float
    grows: bool
    tensor: str | None = None
    m_L: float = 1.0
    in_block: bool = False

    shape: ClassVar[tuple[int, ...]] = ()

    @property
    def row(self) -> str:
        """The row of a rule table for this number."""
        return self.role

    @property
    def symbols(self) -> dict[str, float]:
        """The values of `mupl.parametrization.cells.SYMBOLS`, for a map of fan_in to one number."""
        return {
            "m_in": self.m_in,
            "m_out": 1.0,
            "m_L": self.m_L,
            "fan_in": self.fan_in,
            "fan_out": 1,
            "sigma": 1.0,
        }


Info = ParamInfo | MultiplierInfo


class Infos(dict[str, Info]):
    """What `describe` found, by name.

    Attributes:
        warnings: sentences on what was found that the rules do not reach, or what was not done.

    Example:
        >>> describe(lambda width: nn.Linear(6, width), width=32, base_width=8).warnings
        []
    """

    def __init__(self, infos: Mapping[str, Info], warnings: Sequence[str] = ()) -> None:
        super().__init__(infos)
        self.warnings = list(warnings)


def multipliers(model: nn.Module) -> dict[str, Any]:
    """Return the numbers of a model that a parametrization sets, by module name.

    These are the modules with an attribute `multiplier_role`, such as every
    `mupl.nn.multipliers.Multiplier`; they have a `value` and a `fan_in` too.
    """
    named = model.named_modules()
    return {name: module for name, module in named if hasattr(module, "multiplier_role")}


class _Unclassified(Exception):
    """A tensor whose role its shape does not tell."""

    def __init__(self, name: str, shape: Sequence[int], owner: str) -> None:
        super().__init__(f"{name!r} of shape {tuple(shape)} in a {owner}")
        self.name = name


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


def _refuse(unclassified: Sequence[_Unclassified]) -> None:
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
    unclassified: list[_Unclassified] = []
    for first, names in uses.items():
        try:
            by_use = {name: _describe_tensor(name, models, given[name]) for name in names}
        except _Unclassified as tensor:
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
    fans = _fans(name, shape, grows, given.role, owners[-1])
    sizes = []
    for owner, tensor_shape in zip(owners, shapes, strict=True):
        sizes.append(_sizes(tensor_shape, fans, owner))
    (base_fan_in, base_fan_out), _, (fan_in, fan_out) = sizes
    shape_role = _role_of_growth(sizes)
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


class _Fans(NamedTuple):
    """The dimensions of a tensor whose products are fan_in and fan_out.

    A dimension in neither counts matrices: a batch of them, such as those of experts.
    """

    in_dims: list[int]
    out_dims: list[int]


# Modules whose weights of two or more dimensions are stored as (out, in, *receptive field) ...
_OUT_IN = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# ... and as (in, out, *receptive field).
_IN_OUT = (nn.Embedding, nn.EmbeddingBag, *_TRANSPOSED)
# What torch's own modules call their weights. Other tensors of a subclass are of its author.
_WEIGHT = re.compile(r"weight|weight_[ih][hr](_l\d+)?(_reverse)?|\w+_proj_weight")


def _fans(
    name: str, shape: Sequence[int], grows: Sequence[bool], role: Role | None, owner: nn.Module
) -> _Fans:
    """Say which dimensions are inputs and which are outputs, by the owner or the given role."""
    dims = list(range(len(shape)))
    if len(dims) < 2:
        in_dims = dims if role in (Role.HIDDEN, Role.OUTPUT) else []
        out_dims = [] if role is Role.OUTPUT else dims
        return _Fans(in_dims, out_dims)
    if _is_weight(name, shape, owner):
        if isinstance(owner, _IN_OUT) or _is_conv1d_of_transformers(owner):
            return _Fans([0, *dims[2:]], [1])
        return _Fans(dims[1:], [0])
    return _fans_by_growth(name, shape, grows, role, owner)


def _is_weight(name: str, shape: Sequence[int], owner: nn.Module) -> bool:
    """Say whether a tensor is the weight of one of torch's modules, whose orientation is known."""
    if not _WEIGHT.fullmatch(name.rpartition(".")[2]):
        return False
    if isinstance(owner, nn.Linear | nn.Embedding | nn.EmbeddingBag):
        return len(shape) == 2  # else a subclass that holds several matrices
    return isinstance(owner, _OUT_IN + _IN_OUT) or _is_conv1d_of_transformers(owner)


def _is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Say whether a module is GPT-2's linear layer, whose weight is (in, out)."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(module).__mro__}
    return ("transformers.pytorch_utils", "Conv1D") in kinds


def _fans_by_growth(
    name: str, shape: Sequence[int], grows: Sequence[bool], role: Role | None, owner: nn.Module
) -> _Fans:
    """Orient a tensor that is no known module's weight by which of its dimensions grow.

    Dimensions before the last two that do not grow are a batch. Where the two after them grow it
    is a matrix (out, in, *receptive field). A tensor of three or more dimensions with one entry in
    all but one is a vector. With one of two growing it may be an input or an output.
    """
    dims = list(range(len(shape)))
    batch = 0
    while len(shape) - batch > 2 and not grows[batch]:
        batch += 1
    matrix = dims[batch:]
    growing = [dim for dim in matrix if grows[dim]]
    rest = [dim for dim in dims if not grows[dim]]
    if role is Role.INPUT:
        return _Fans(rest, growing)
    if role is Role.OUTPUT:
        return _Fans(growing, [dim for dim in matrix if not grows[dim]])
    if role is not None or not growing or growing in (matrix, matrix[:2]):
        return _Fans(matrix[1:], matrix[:1])
    if len(shape) > 2 and all(shape[dim] == 1 for dim in rest):
        return _Fans(rest, growing)
    raise _Unclassified(name, shape, type(owner).__name__)


def _sizes(shape: Sequence[int], fans: _Fans, owner: nn.Module) -> tuple[int, int]:
    """Return fan_in and fan_out."""
    fan_in = math.prod(shape[dim] for dim in fans.in_dims)
    fan_out = math.prod(shape[dim] for dim in fans.out_dims)
    if isinstance(owner, _TRANSPOSED) and len(shape) > 1:  # (in, out / groups, *receptive field)
        return fan_in // owner.groups, fan_out * owner.groups
    return fan_in, fan_out


def _role_of_growth(sizes: Sequence[tuple[int, int]]) -> Role:
    """Return the role of a tensor from its (fan_in, fan_out) at several widths."""
    fan_in_grows, fan_out_grows = (len(set(fans)) > 1 for fans in zip(*sizes, strict=True))
    if fan_in_grows and fan_out_grows:
        return Role.HIDDEN
    if fan_in_grows:
        return Role.OUTPUT
    return Role.INPUT if fan_out_grows else Role.SCALAR


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
