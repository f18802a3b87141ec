"""Param groups: tensors with equal hyperparameters together, as any torch optimizer takes them."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mupl.parametrization.rules import Scale


def param_groups(
    parameters: Mapping[str, nn.Parameter], scales: Mapping[str, Scale], *, eps: bool = True
) -> list[dict[str, Any]]:
    """One group for each distinct (lr, weight_decay, eps), in order of first appearance; frozen tensors are left out.

    Args:
        parameters: what the optimizer sees, by name.
        eps: whether the optimizer takes an epsilon.
    """
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            scale = scales[name]
            options = {"lr": scale.lr, "weight_decay": scale.weight_decay} | ({"eps": scale.eps} if eps else {})
            groups.setdefault(tuple(options.values()), {"params": [], **options})["params"].append((name, parameter))
    return list(groups.values())


def build_optimizer(
    optimizer: Callable[..., Optimizer], parameters: Mapping[str, nn.Parameter], scales: Mapping[str, Scale]
) -> Optimizer:
    """The optimizer over the param groups of `scales`."""
    constructor = optimizer.func if isinstance(optimizer, partial) else optimizer
    takes = inspect.signature(constructor).parameters
    chosen = optimizer.keywords if isinstance(optimizer, partial) else {}
    options = {}
    if "foreach" in takes and not {"foreach", "fused"} & set(chosen) and all(p.is_cpu for p in parameters.values()):
        # what torch comes to on a CPU, after asking every tensor of every group at every step
        options["foreach"] = False
    return optimizer(param_groups(parameters, scales, eps="eps" in takes), **options)
