"""Which dimensions of a tensor are its inputs and which its outputs, and its role from that."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from mupl.roles.infos import Role


class Unclassified(Exception):
    """A tensor whose role its shape does not tell.

    Attributes:
        proposal: the role that tensors of such a shape and name mostly have.
    """

    def __init__(
        self, name: str, shape: Sequence[int], grows: Sequence[bool], owner: nn.Module
    ) -> None:
        super().__init__(f"of shape {tuple(shape)} in a {type(owner).__name__}")
        self.name = name
        self.proposal = _propose(name, shape, grows, owner)


def _propose(name: str, shape: Sequence[int], grows: Sequence[bool], owner: nn.Module) -> Role:
    """Return the role that a tensor mostly has of which one dimension of the last two grows.

    What a module calls its weight is (out, in), as a router's (experts, width), and so are the
    factors of LoRA, and experts of transformers that do not say `is_transposed`. Other matrices are
    for `x @ w`, and so (in, out), or tables of one row a position: (positions, width).
    """
    leaf = name.rpartition(".")[2]
    is_weight = re.fullmatch(r"(\w+_)?weight|original\d|lora_\w+", leaf) is not None
    if holds_copies(shape, owner):
        is_weight = not getattr(owner, "is_transposed", False)
    if _VECTORS.search(leaf) or (shape[0] == 1 and not is_weight):
        return Role.INPUT
    return Role.INPUT if grows[-1] != is_weight else Role.OUTPUT


# Names of tensors that are one vector, or a few, for each unit
_VECTORS = re.compile(r"bias|pos|embed|token|scale|gamma|_log|weight_g", re.IGNORECASE)


class Fans(NamedTuple):
    """The dimensions of a tensor whose products are fan_in and fan_out.

    Args:
        batch_dims: how many dimensions before these count matrices, such as experts.
    """

    in_dims: list[int]
    out_dims: list[int]
    batch_dims: int = 0


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
_NORMS = (nn.LayerNorm, nn.RMSNorm)  # whose tensors act entry by entry, whatever their rank
# What torch's own modules call their weights. Other tensors of a subclass are of its author.
_WEIGHT = re.compile(r"weight|weight_[ih][hr](_l\d+)?(_reverse)?|\w+_proj_weight")


def fans_of(
    name: str, shape: Sequence[int], grows: Sequence[bool], role: Role | None, owner: nn.Module
) -> Fans:
    """Say which dimensions are inputs and which are outputs, by the owner or the given role."""
    dims = list(range(len(shape)))
    if len(dims) < 2:
        in_dims = dims if role in (Role.HIDDEN, Role.OUTPUT) else []
        out_dims = [] if role is Role.OUTPUT else dims
        return Fans(in_dims, out_dims)
    if _is_weight(name, shape, owner):
        if isinstance(owner, _IN_OUT) or is_conv1d_of_transformers(owner):
            return Fans([0, *dims[2:]], [1])
        return Fans(dims[1:], [0])
    if isinstance(owner, _NORMS):
        return Fans([], dims)
    return _fans_by_growth(name, shape, grows, role, owner)


def _is_weight(name: str, shape: Sequence[int], owner: nn.Module) -> bool:
    """Say whether a tensor is the weight of one of torch's modules, whose orientation is known."""
    if not _WEIGHT.fullmatch(name.rpartition(".")[2]):
        return False
    if isinstance(owner, nn.Linear | nn.Embedding | nn.EmbeddingBag):
        return len(shape) == 2  # else a subclass that holds several matrices
    return isinstance(owner, _OUT_IN + _IN_OUT) or is_conv1d_of_transformers(owner)


def is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Say whether a module is GPT-2's linear layer, whose weight is (in, out)."""
    kinds = {(kind.__module__, kind.__name__) for kind in type(module).__mro__}
    return ("transformers.pytorch_utils", "Conv1D") in kinds


def _fans_by_growth(
    name: str, shape: Sequence[int], grows: Sequence[bool], role: Role | None, owner: nn.Module
) -> Fans:
    """Orient a tensor that is no known module's weight by which of its dimensions grow.

    The first dimensions may be a batch (`_batch_dims`). Where the two after them grow it is a
    matrix (out, in, *receptive field). A tensor of three or more dimensions with one entry in all
    but one is a vector, and (1, ..., L, width) is a table of L of them. Else, with one of two
    growing, it may be an input or an output.
    """
    dims = list(range(len(shape)))
    batch = _batch_dims(shape, grows, owner)
    matrix = dims[batch:]
    growing = [dim for dim in matrix if grows[dim]]
    others = [dim for dim in matrix if not grows[dim]]
    if role is Role.INPUT:
        return Fans(others, growing, batch)
    if role is Role.OUTPUT:
        return Fans(growing, others, batch)
    if role is not None or not growing or growing in (matrix, matrix[:2]):
        return Fans(matrix[1:], matrix[:1], batch)
    rest = [dim for dim in dims if not grows[dim]]
    if len(shape) > 2:
        is_vector = all(shape[dim] == 1 for dim in rest)
        is_table = shape[0] == 1 and growing == dims[-1:]
        if is_vector or is_table:
            return Fans(rest, growing)
    raise Unclassified(name, shape, grows, owner)


# What modules call the number of networks that they hold in each of their tensors
_COUNTS = ("num_experts", "n_experts", "num_local_experts")


def network_counts(module: nn.Module) -> set[int]:
    """Return the numbers of networks, such as experts, that a module and those in it say.

    Example:
        >>> from mupl.nn.experts import ExpertLinear
        >>> network_counts(nn.Sequential(ExpertLinear(3, 4, 2)))
        {3}
    """
    return set().union(*map(_counts, module.modules()))


def _counts(module: nn.Module) -> set[int]:
    said = [getattr(module, name, None) for name in _COUNTS]
    return {count for count in said if isinstance(count, int)}


def _batch_dims(shape: Sequence[int], grows: Sequence[bool], owner: nn.Module) -> int:
    """Count the first dimensions of a tensor that count matrices, or vectors.

    The owner may say how many there are. Else it is the first of three that grow, and those before
    the last two that do not grow.
    """
    if holds_copies(shape, owner) or (len(shape) == 3 and all(grows)):
        return 1
    batch = 0
    while len(shape) - batch > 2 and not grows[batch]:
        batch += 1
    return batch


def holds_copies(shape: Sequence[int], owner: nn.Module, member_axes: int = 0) -> bool:
    """Say whether the first dimension of a tensor counts the networks that its owner holds.

    One tensor of such a module has more than two dimensions. A router, whose weight is a matrix
    (experts, width), may know their number, too.

    Args:
        member_axes: number of dimensions before `shape` that all tensors of the owner have.
    """
    counts = _counts(owner)
    if len(shape) == 0 or shape[0] not in counts:
        return False
    for w in owner._parameters.values():
        if w is not None:
            other = w.shape[member_axes:]
            if len(other) > 2 and other[0] in counts:
                return True
    return False


def sizes_of(shape: Sequence[int], fans: Fans, groups: int) -> tuple[int, int]:
    """Return fan_in and fan_out, of one matrix.

    Args:
        groups: of a transposed convolution, see `transposed_groups`.
    """
    fan_in = math.prod(shape[dim] for dim in fans.in_dims)
    fan_out = math.prod(shape[dim] for dim in fans.out_dims)
    if len(shape) < 2:
        return fan_in, fan_out
    return fan_in // groups, fan_out * groups


def transposed_groups(owner: nn.Module) -> int:
    """Return the groups of a transposed convolution, whose weight is (in, out / groups, *field)."""
    return owner.groups if isinstance(owner, _TRANSPOSED) else 1


def role_of_growth(sizes: Sequence[tuple[int, int]]) -> Role:
    """Return the role of a tensor from its (fan_in, fan_out) at several widths."""
    fan_in_grows, fan_out_grows = (len(set(fans)) > 1 for fans in zip(*sizes, strict=True))
    if fan_in_grows and fan_out_grows:
        return Role.HIDDEN
    if fan_in_grows:
        return Role.OUTPUT
    return Role.INPUT if fan_out_grows else Role.SCALAR
