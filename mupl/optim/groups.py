"""Param groups: tensors with equal hyperparameters together, as any torch optimizer takes them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.optim.registry import unwrapped
from mupl.parametrization.scales import Scale


def param_groups(
    parameters: Mapping[str, nn.Parameter], scales: Mapping[str, Scale], *, eps: bool = True
) -> list[dict[str, Any]]:
    """One group for each distinct (lr, weight_decay, update_kind, eps), in order of first appearance; no frozen tensors.

    `update_kind` is the rule by which an optimizer that routes moves the tensors of a group; others do not look at it.

    Args:
        parameters: what the optimizer sees, by name.
        eps: whether the optimizer takes an epsilon.
    """
    groups: dict[tuple[object, ...], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            scale = scales[name]
            options = {
                "lr": scale.lr,
                "weight_decay": scale.weight_decay,
                "update_kind": scale.update_kind,
            }
            options |= {"eps": scale.eps} if eps else {}
            groups.setdefault(tuple(options.values()), {"params": [], **options})["params"].append(
                (name, parameter)
            )
    return list(groups.values())


def build_optimizer(
    optimizer: Callable[..., Optimizer],
    parameters: Mapping[str, nn.Parameter],
    scales: Mapping[str, Scale],
) -> Optimizer:
    """The optimizer over the param groups of `scales`.

    Loading a state that was saved under other hyperparameters into it is a ConfigError: see `check_same_groups`.
    """
    constructor, chosen = unwrapped(optimizer)
    takes = inspect.signature(constructor).parameters
    options = {}
    if (
        "foreach" in takes
        and not {"foreach", "fused"} & set(chosen)
        and all(p.is_cpu for p in parameters.values())
    ):
        # what torch comes to on a CPU, after asking every tensor of every group at every step
        options["foreach"] = False
    built = optimizer(param_groups(parameters, scales, eps="eps" in takes), **options)
    built.register_load_state_dict_pre_hook(check_same_groups)
    return built


def check_same_groups(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """What `optimizer.load_state_dict(state)` would silently change: the hyperparameters that scaling rules have set.

    Learning rates are compared as they were before any schedule.

    Raises:
        ConfigError: if lr, weight_decay, eps or update_kind of a group are not those that were saved.
    """
    for mine, saved in zip(optimizer.param_groups, state["param_groups"], strict=False):
        for key in ("lr", "weight_decay", "eps", "update_kind"):
            ours, theirs = (group.get(f"initial_{key}", group.get(key)) for group in (mine, saved))
            if key in saved and ours != theirs:
                raise ConfigError(
                    f"optimizer state: it was saved under {key}={theirs} where this run has {key}={ours}. To resume, "
                    "train with the hyperparameters of that run; to go on with these, load the state "
                    "{**state, 'param_groups': optimizer.state_dict()['param_groups']}"
                )
