"""Roles of tensors and of multipliers, and what `describe` says of each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mupl.initializers import Initializer


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
            values that belie it are measured, as where a constructor fills nothing on the meta
            device.
        constant: whether all entries are one number.
        usual: ratios that follow from usual initial distributions, with a std that is constant or
            falls with fan_in or fan_out; none for a vector, where these are not known.
    """

    rms: float
    size: int
    ratio: float | None
    certain: bool
    constant: bool = False
    usual: tuple[float, ...] = ()

    def are_these(self, values: Tensor) -> bool:
        """Say whether values may be a model's own initial ones, and not loaded or trained ones.

        Values of one number must all be equal. Others must have a size that follows from the base
        width's by `ratio` or by a usual one; small tensors vary too much to be judged.
        """
        if self.certain or not values.numel():
            return True
        if self.constant:
            return values.amin().item() == values.amax().item()
        ratios = self.usual if self.ratio is None else (self.ratio, *self.usual)
        rms = root_mean_square(values)
        if not ratios or min(self.size, values.numel()) <= 32 or 0 in (rms, self.rms):
            return True
        # of own values that are no normal sample, such as sparse ones, the noise is larger
        tolerance = 10 * noise_of_ratio(self.size, values.numel())
        return any(abs(self.rms / rms / ratio - 1) <= tolerance for ratio in ratios)

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
        noise = noise_of_ratio(*sizes)
        is_belied = min(sizes) > 32 and abs(measured / self.ratio - 1) > 6 * noise
        return measured if is_belied else self.ratio


def noise_of_ratio(*sizes: int) -> float:
    """Return the relative noise of the ratio of root mean squares of normal samples."""
    return math.sqrt(sum(0.5 / size for size in sizes))


def root_mean_square(values: Tensor) -> float:
    """Return the root mean square of a tensor's entries."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    norm = torch.linalg.vector_norm(values.detach(), dtype=dtype)
    if hasattr(norm, "full_tensor"):  # of a tensor that is sharded
        norm = norm.full_tensor()
    return norm.item() / math.sqrt(max(values.numel(), 1))


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
        m_copies: number of matrices that the tensor holds over that at the base width.
        copies_grow: whether that number grows with width.
        batch_dims: how many of the first dimensions count these matrices.
        init: what the tensor is drawn from at the base width.
        own: the model's own values, which are rescaled; None: it is drawn anew from `init`.
        kept: whether the effective tensor stays as the model made it, as loaded ones do.
        frozen: whether it is not trained.
        m_L: depth over base depth for a tensor in a block, else 1.
        in_block: whether the number of such tensors grows with depth.
        is_embedding: whether it is the matrix of an embedding.
        out_first: whether a matrix is stored as (out, in, *receptive field).
        parts: numbers of outputs of the matrices that lie side by side in a matrix, such as
            queries, keys and values; () if that is not known.
        head_size: outputs of one head of attention, if it makes queries, keys or values.

    Example:
        >>> from mupl.roles import describe
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
    parts: tuple[int, ...] = ()
    head_size: int = 0
    m_copies: float = 1.0
    copies_grow: bool = False
    batch_dims: int = 0

    @property
    def copy_shape(self) -> tuple[int, ...]:
        """The shape of one of the matrices or vectors that the tensor holds; mostly it is one."""
        return self.shape[self.batch_dims :]

    @property
    def row(self) -> str:
        """The row of a rule table for this tensor: one of `SPECIAL_ROWS`, or the role."""
        row = str(self.role)
        if self.is_embedding:
            row += "_embedding"
        elif len(self.copy_shape) < 2:
            row += "_vector"
        return row if row in SPECIAL_ROWS else self.role

    @property
    def symbols(self) -> dict[str, float]:
        """The values of those `mupl.parametrization.cells.SYMBOLS` that follow from the tensor."""
        return {
            "m_in": self.m_in,
            "m_out": self.m_out,
            "m_copies": self.m_copies,
            "m_L": self.m_L,
            "fan_in": self.fan_in,
            "fan_out": self.fan_out,
            "sigma": self.init.sigma,
        }


class InsertionKind(StrEnum):
    """By what a multiplier acts in a model that has no module for it."""

    ATTRIBUTE = "attribute"  # a number of the attention module, such as `scaling`
    OUTPUT = "output"  # the output of a module: queries, or a residual branch
    IN_PROJECTION = "in_projection"  # rows of the queries in an `nn.MultiheadAttention`
    WEIGHT = "weight"  # the weight of a readout that is the embedding's


@dataclass(frozen=True)
class Insertion:
    """Where a multiplier acts in a model that has no module for it.

    Args:
        kind: by what it acts.
        module: path of the module.
        own: what the model itself multiplies by at the described width; the rest is inserted.
        attribute: name of the number, if it is one.
        size: how many of the first features of an output it multiplies; None: all.
    """

    kind: InsertionKind
    module: str
    own: float = 1.0
    attribute: str = ""
    size: int | None = None


@dataclass(frozen=True)
class MultiplierInfo:
    """One number of the model, such as a `mupl.nn.multipliers.Multiplier`, as the rules see it.

    Args:
        role: what it multiplies.
        value: at the base size.
        fan_in: number of terms of the sum that it scales.
        m_in: fan_in over its value at the base width.
        grows: whether fan_in grows with width.
        tensor: of a readout by a tensor that it shares with an embedding: the name of that.
        insertion: where it acts, if the model has no `Multiplier` for it.
        m_L, in_block: as in `ParamInfo`.
    """

    role: MultiplierRole
    value: float
    fan_in: int
    m_in: float
    grows: bool
    tensor: str | None = None
    insertion: Insertion | None = None
    m_L: float = 1.0
    in_block: bool = False

    shape: ClassVar[tuple[int, ...]] = ()
    copy_shape: ClassVar[tuple[int, ...]] = ()
    copies_grow: ClassVar[bool] = False

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
            "m_copies": 1.0,
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
        >>> from mupl.roles import describe
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
