"""Param groups: tensors with equal hyperparameters together, as any torch optimizer takes them."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.nn.initialize import check_multipliers_act, check_shape, uses
from mupl.nn.insertions import inserted
from mupl.nn.tensors import plain_name
from mupl.optim.registry import unwrapped
from mupl.parametrization.scales import Scale, check_scales
from mupl.parametrization.update_kinds import UpdateKind
from mupl.roles import InsertionKind

Parameters = nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


def param_groups(
    parameters: Parameters, scales: Mapping[str, Scale], *, eps: bool = True
) -> list[dict[str, Any]]:
    """Make one param group for each distinct (lr, weight_decay, update kind, eps).

    Groups come in the order of their first tensor. Frozen tensors are left out. Some keys are for
    mupl's own optimizers: `update_kind` says how to move a group's tensors, `parts` and
    `transposed` how they hold matrices that get orthogonal updates, `batch_dims` how many of their
    first dimensions count matrices, `inner_kind` and `shape_factor` how updates are made that are
    divided by their norm. Others do not look at these.

    Args:
        parameters: the model that `mupl.initialize_` returned, its `named_parameters()`, or a dict
            of them.
        scales: what `mupl.scale` returned for this model.
        eps: whether the optimizer takes an epsilon.

    Raises:
        ConfigError: if a tensor has no scale, `parameters` has no names, or a model has not all
            tensors of the scales, with their shapes and the multipliers that `initialize_` sets.

    Example:
        >>> import mupl
        >>> build = lambda width: nn.Sequential(nn.Linear(4, width), nn.Linear(width, width))
        >>> infos = mupl.describe(build, width=32, base_width=8)
        >>> scales = mupl.scale(infos, "mup", "adam", lr=0.1)
        >>> groups = param_groups(mupl.initialize_(build(32), scales, seed=0), scales)
        >>> [(group["lr"], len(group["params"])) for group in groups]
        [(0.1, 3), (0.025, 1)]
    """
    groups: dict[tuple[object, ...], dict[str, Any]] = {}
    named = _named(parameters, scales)
    check_scales(scales)
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        if name not in scales:
            raise ConfigError(
                f"param_groups: the parameter {name!r} has no scale, so nothing would train it; "
                f"describe the model that you train (there are scales for {', '.join(scales)})"
            )
        options = _options(scales[name], eps)
        group = groups.setdefault(tuple(options.values()), {"params": [], **options})
        group["params"].append((name, parameter))
    if isinstance(parameters, nn.Module):
        _check_tensors(parameters, scales)
        _check_multipliers(parameters, scales)
    return list(groups.values())


def _options(scale: Scale, eps: bool) -> dict[str, Any]:
    """Return what the param group of a tensor holds beside the tensor."""
    options: dict[str, Any] = {"lr": scale.lr, "weight_decay": scale.weight_decay}
    options["update_kind"] = scale.update_kind
    if scale.inner_kind is not None:
        options["inner_kind"] = scale.inner_kind
        options["shape_factor"] = scale.shape_factor
    if scale.update_kind == UpdateKind.ORTHOGONAL:
        options["parts"] = scale.parts
        options["transposed"] = scale.transposed
    if scale.batch_dims:
        options["batch_dims"] = scale.batch_dims
    if eps:
        options["eps"] = scale.eps
    if scale.matrix_eps is not None:
        options["matrix_eps"] = scale.matrix_eps
    return options


def _check_tensors(model: nn.Module, scales: Mapping[str, Scale]) -> None:
    """Refuse a model that lacks tensors of the scales, or has them in another shape."""
    tensors = {}
    for raw_name, parameter in model.named_parameters(remove_duplicate=False):
        tensors[plain_name(raw_name, scales)] = parameter
    for name, scale in scales.items():
        if scale.shape is None:
            continue  # a multiplier
        if name not in tensors:
            raise ConfigError(
                f"param_groups: there is a scale for {name!r}, which the model has not; describe "
                "the model that you train"
            )
        check_shape(name, tensors[name], scale)


def _check_multipliers(model: nn.Module, scales: Mapping[str, Scale]) -> None:
    """Refuse a model on which `initialize_` was not called: it would train without multipliers."""
    for use in uses(model, scales):
        if not use.is_set:
            raise ConfigError(
                f"param_groups: {use.name!r} has not the multiplier {use.mult:g} of its scale; "
                "call mupl.initialize_(model, scales) first"
            )
    for name, scale in scales.items():
        if scale.insertion is None or scale.insertion.kind is InsertionKind.WEIGHT:
            continue
        if not math.isclose(inserted(model, scale.insertion), scale.inserted):
            raise ConfigError(
                f"param_groups: {name!r} is not the multiplier {scale.inserted:g} of its scale; "
                "call mupl.initialize_(model, scales) first"
            )


def _named(parameters: Parameters, scales: Mapping[str, Scale]) -> list[tuple[str, Tensor]]:
    """Pairs of a parameter and the name that it has in the plain model."""
    if isinstance(parameters, nn.Module):
        parameters = parameters.named_parameters()
    elif isinstance(parameters, Mapping):
        parameters = parameters.items()
    pairs = []
    for pair in parameters:
        if not isinstance(pair, tuple) or not isinstance(pair[1], Tensor):
            raise ConfigError(
                "param_groups: takes a model, its named_parameters() or a dict by name, as scales "
                "are by name; model.parameters() has none"
            )
        name, parameter = pair
        pairs.append((plain_name(name, scales), parameter))
    return pairs


def build_optimizer(
    optimizer: Callable[..., Optimizer], parameters: Parameters, scales: Mapping[str, Scale]
) -> Optimizer:
    """Build the optimizer over the param groups of `scales`.

    A state that was saved under other hyperparameters cannot be loaded into it: see
    `check_same_groups`.

    Raises:
        ConfigError: on options that the optimizer refuses; at the first step, if a multiplier of
            the model does not act.
    """
    constructor, chosen = unwrapped(optimizer)
    takes = inspect.signature(constructor).parameters
    groups = param_groups(parameters, scales, eps="eps" in takes)
    tensors = [tensor for group in groups for _, tensor in group["params"]]
    options = {}
    chooses = "foreach" in chosen or "fused" in chosen
    if "foreach" in takes and not chooses and all(tensor.is_cpu for tensor in tensors):
        # Torch's own choice on a CPU, which it would find anew at each step by asking every tensor
        options["foreach"] = False
    try:
        built = optimizer(groups, **options)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:  # such as a beta that is out of range
        raise ConfigError(f"optimizer={constructor.__name__}: {error}") from error
    built.register_load_state_dict_pre_hook(check_same_groups)
    if isinstance(parameters, nn.Module):
        _check_at_first_step(built, parameters, scales)
    return built


def _check_at_first_step(
    optimizer: Optimizer, model: nn.Module, scales: Mapping[str, Scale]
) -> None:
    """At the first step refuse a model in which a multiplier does not act."""

    def check(*_: Any) -> None:
        handle.remove()
        check_multipliers_act(model, scales)

    handle = optimizer.register_step_pre_hook(check)


COMPARED = ("lr", "weight_decay", "eps", "matrix_eps", "update_kind")
SHOWN = 3  # differences in one line


def check_same_groups(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Refuse a state whose tensors had other hyperparameters than the optimizer gives to them.

    `optimizer.load_state_dict(state)` would silently replace what the scaling rules have set. An
    optimizer of `Setup.optimizer` calls this by itself; register it with any other one. Learning
    rates are compared as they were before any schedule.

    Args:
        optimizer: made of `param_groups`, with its present hyperparameters.
        state: what the `state_dict()` of an optimizer returned.

    Raises:
        ConfigError: showing saved and present values of `COMPARED` by tensor; or if the state is of
            other tensors, or of these in another order.

    Example:
        >>> import mupl, torch
        >>> build = lambda width: nn.Linear(width, width)
        >>> def optimizer(base_width):
        ...     setup = mupl.Setup(build, 64, base_width=base_width, lr=0.1)
        ...     adam = torch.optim.Adam(mupl.param_groups(setup.model, setup.scales))
        ...     adam.register_load_state_dict_pre_hook(check_same_groups)
        ...     return adam
        >>> optimizer(16).load_state_dict(optimizer(32).state_dict())
        Traceback (most recent call last):
        mupl.errors.ConfigError: optimizer state: it was saved under lr=0.05 (now 0.025) of ...
    """
    present, saved = _compared(optimizer, state)
    if present.keys() != saved.keys():
        missing = sorted(present.keys() ^ saved.keys())
        raise ConfigError(
            f"optimizer state: it is of {len(saved)} tensors, the optimizer of {len(present)}; "
            f"not of both are {', '.join(missing[:SHOWN])}"
        )
    different = _differences(present, saved)
    if different:
        more = f", {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        raise ConfigError(
            f"optimizer state: it was saved under {', '.join(different[:SHOWN])}{more}. To resume, "
            "train with the hyperparameters of that run; to go on with these, load "
            "mupl.with_groups_of(optimizer, state)"
        )
    if list(present) != list(saved):
        raise ConfigError(
            "optimizer state: it has the tensors in another order, in which torch would mix them "
            "up; load mupl.with_groups_of(optimizer, state)"
        )


def _refuse_others(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Refuse what is no optimizer beside a state of one."""
    if not isinstance(state, Mapping) or "param_groups" not in state:
        raise ConfigError("optimizer state: must be what the state_dict() of an optimizer returned")
    if not hasattr(optimizer, "param_groups"):
        raise ConfigError(
            f"optimizer: must be an optimizer, not a {type(optimizer).__name__}; the state follows"
        )


def _compared(
    optimizer: Optimizer, state: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return what is compared of each tensor: present and saved, by name if both have names."""
    _refuse_others(optimizer, state)
    both = [*optimizer.param_groups, *state["param_groups"]]
    named = all("param_names" in group for group in both)
    return _by_tensor(optimizer.param_groups, named), _by_tensor(state["param_groups"], named)


def _differences(
    present: Mapping[str, Mapping[str, Any]], saved: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say which hyperparameters of which tensors differ."""
    different = []
    for key in COMPARED:
        for name, options in present.items():
            ours = options.get(key)
            theirs = saved[name].get(key)
            if ours != theirs and None not in (ours, theirs):
                different.append(f"{key}={theirs} (now {ours}) of {name}")
    return different


def _by_tensor(groups: Iterable[Mapping[str, Any]], named: bool) -> dict[str, dict[str, Any]]:
    """Return what is compared of each tensor, in the order of the groups, by name or number."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        options = {}
        for key in COMPARED:
            if key in group:
                options[key] = group.get(f"initial_{key}", group[key])
        for index, _ in enumerate(group["params"]):
            name = group["param_names"][index] if named else f"tensor {len(found)}"
            found[name] = options
    return found


def with_groups_of(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state with the hyperparameters that an optimizer has now.

    Load it to go on with a learning rate that was changed on purpose. Each tensor gets its own
    state, found by its name, also where tensors are grouped otherwise than before.

    Args:
        optimizer, state: as in `check_same_groups`.

    Raises:
        ConfigError: if the state has no names of tensors, as where the optimizer that it is of was
            not made of `param_groups`.

    Example:
        >>> import mupl
        >>> setup = mupl.Setup(lambda width: nn.Linear(width, width), 64, base_width=16, lr=0.1)
        >>> saved = setup.optimizer().state_dict()
        >>> setup = mupl.Setup(lambda width: nn.Linear(width, width), 64, base_width=16, lr=0.3)
        >>> optimizer = setup.optimizer()
        >>> optimizer.load_state_dict(with_groups_of(optimizer, saved))
        >>> optimizer.param_groups[0]["lr"]
        0.075
    """
    _refuse_others(optimizer, state)
    states = {}
    for group in state["param_groups"]:
        if "param_names" not in group:
            raise ConfigError(
                "optimizer state: it has no names of tensors, by which their states are found"
            )
        for index, name in zip(group["params"], group["param_names"], strict=True):
            states[name] = state["state"].get(index)
    groups = optimizer.state_dict()["param_groups"]
    by_index = {}
    for group in groups:
        for index, name in zip(group["params"], group["param_names"], strict=True):
            if states.get(name) is not None:
                by_index[index] = states[name]
    return {**state, "state": by_index, "param_groups": groups}
