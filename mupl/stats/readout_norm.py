"""The operator norm of a model's readout, which is alike at the best learning rate of all sizes."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mupl.names import block_pattern
from mupl.roles import Info, ParamInfo, Role


def readout_of(infos: Mapping[str, Info]) -> str | None:
    """Return the name of the matrix that reads out; None if a model has none, or several.

    It has the role output. Of matrices that come once a block, such as routers and adapters, which
    are readouts by their shapes too, none is meant. A readout that is the embedding's matrix is
    none either.

    Example:
        >>> from torch import nn
        >>> from mupl.roles import describe
        >>> def build(width):
        ...     return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))
        >>> readout_of(describe(build, 16, 8))
        '2.weight'
    """
    by_pattern: dict[str, list[str]] = {}
    for name, info in infos.items():
        is_matrix = isinstance(info, ParamInfo) and len(info.shape) > 1
        if is_matrix and info.role == Role.OUTPUT and not info.in_block:
            pattern = block_pattern(name)
            by_pattern.setdefault(pattern, []).append(name)
    single = []
    for names in by_pattern.values():
        if len(names) == 1:
            single.append(names[0])
    if len(single) != 1:
        return None
    return single[0]


def readout_norm(weight: Tensor, info: ParamInfo, members: int = 0) -> Tensor:
    """Return the RMS -> infinity operator norm of a readout W: `sqrt(fan_in) max_i |W_i|_2`.

    It is the largest output for inputs x of RMS 1. By Cauchy and Schwarz
    `max_i |W_i . x| <= max_i |W_i|_2 |x|_2 = sqrt(fan_in) max_i |W_i|_2 RMS(x)`, and x along the
    longest row W_i attains it. Filatov et al. (2025, arXiv 2510.03871) find this norm to be the
    same at the best learning rate of every size of the model and of the data.

    Args:
        weight: the effective W (S.., *shape).
        info: of W: its fan_in, and whether outputs or inputs come first in its shape.
        members: number of leading dimensions S of a stack.

    Returns:
        (S..), one norm for each member.

    Example:
        >>> from torch import nn
        >>> from mupl.roles import describe
        >>> info = describe(lambda width: nn.Linear(width, 2, bias=False), 4, 2)["weight"]
        >>> readout_norm(torch.tensor([[3.0, 4, 0, 0], [1, 0, 0, 0]]), info)
        tensor(10.)
    """
    w = weight.detach()
    if hasattr(w, "full_tensor"):  # of a tensor that is sharded
        w = w.full_tensor()
    rows = w if info.out_first else w.transpose(members, members + 1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32)).flatten(members + 1)
    lengths = torch.linalg.vector_norm(rows, dim=-1)
    return math.sqrt(info.fan_in) * lengths.amax(-1)
