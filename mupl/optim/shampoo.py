"""Which rules the tensors of full Shampoo follow, in one block or in several."""

from functools import partial
from typing import Any

from mupl.errors import ConfigError
from mupl.optim.soap import sides
from mupl.parametrization.update_kinds import MatrixEps, OptimizerRules, UpdateKind
from mupl.roles import Info, ParamInfo, Role

# the method whose norm an update has -> the kind of such an update
OF_GRAFT = {"adam": UpdateKind.ADAM, "rmsprop": UpdateKind.ADAM, "sgd": UpdateKind.SGD}
# whether the outputs' and the inputs' side that grow are in blocks -> kind of Shampoo's update
_OF_BLOCKS = {
    (False, False): UpdateKind.WHITENED,
    (True, False): UpdateKind.ROTATED_IN,
    (False, True): UpdateKind.ROTATED_OUT,
    (True, True): UpdateKind.ADAM,
}


def shampoo_rules(
    matrix_eps: float = 1e-6, block_size: int | None = None, graft: str | None = None, **_: Any
) -> OptimizerRules:
    """Return the rules of full Shampoo with these options.

    `L^(-1/4) G R^(-1/4)` has singular values of at most 1, and the more of them are near 1 the more
    directions the gradients of all steps had. `(g g^T)^(-1/2) g` of a vector has norm 1. In blocks
    lr is smaller by the root of the number of blocks along each side (`mupl.optim.blocked`).

    Args:
        matrix_eps: at the base width; the default is the same in `pytorch_optimizer.Shampoo`.
        block_size: the largest side of a block; None: one block a tensor.
        graft: whose norm an update of a tensor gets; None: its own.

    Raises:
        ConfigError: if matrix_eps is negative or no number.

    Example:
        >>> from torch import nn
        >>> from mupl.roles import describe
        >>> info = describe(lambda width: nn.Linear(width, width), 64, 16)["weight"]
        >>> [str(shampoo_rules(block_size=size).kind_of(info)) for size in (None, 32)]
        ['whitened', 'adam']
    """
    if isinstance(matrix_eps, bool) or not isinstance(matrix_eps, int | float) or matrix_eps < 0:
        raise ConfigError(f"optimizer.matrix_eps={matrix_eps}: must be a number >= 0")
    of_sums = MatrixEps(matrix_eps, partial(_kind_of_sums, block_size))
    return OptimizerRules(partial(_kind_of, block_size, graft), matrix_eps=of_sums)


def _kind_of(block_size: int | None, graft: str | None, info: Info) -> str:
    if graft is not None:
        return OF_GRAFT[graft]
    blocks = _in_blocks(block_size, info)
    if len(info.copy_shape) < 2 and not any(blocks):
        return UpdateKind.ORTHOGONAL
    return _OF_BLOCKS[blocks]


def _kind_of_sums(block_size: int | None, info: Info) -> str:
    """Return the kind of Adam in an eigenbasis of the sides that are not in blocks."""
    blocks = _in_blocks(block_size, info)
    return _OF_BLOCKS[blocks] if any(blocks) else UpdateKind.ROTATED


def _in_blocks(block_size: int | None, info: Info) -> tuple[bool, bool]:
    """Say whether the outputs' and the inputs' side are in blocks, so far as they grow.

    A side that does not grow follows the other, so that one growing side in blocks is all of them.
    """
    if block_size is None or not isinstance(info, ParamInfo):
        return False, False
    if len(info.copy_shape) < 2:
        is_cut = max(info.copy_shape, default=1) > block_size
        return is_cut, is_cut
    outputs, inputs = (max(side) > block_size for side in sides(info))
    grows_out = info.role in (Role.INPUT, Role.HIDDEN)
    grows_in = info.role in (Role.HIDDEN, Role.OUTPUT)
    if not grows_out and not grows_in:
        return False, False
    return (outputs if grows_out else inputs, inputs if grows_in else outputs)
