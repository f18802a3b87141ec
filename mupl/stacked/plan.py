"""Which jobs of a sweep may be trained as one stack, and how large it may be.

Configs come in and lists go out; nothing is trained here.
"""

import json
import math
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import Any, TypeVar

from hydra.utils import get_class, get_object
from omegaconf import DictConfig, OmegaConf

from mupl.stacked.rules import NotStackable, stackable

T = TypeVar("T")

# What members of one stack must agree in: of all that a run reads, what shapes it or is set once
SHARED = ("width", "batch_size", "model", "data", "optimizer", "trainer", "callbacks", "loss")
# But they may differ in this of it, beside the `per_member` of the model's class and the
# optimizer's options
PER_MEMBER = ("trainer.gradient_clip_val",)
CALLBACKS = ("mupl.stats.callback.CoordinateStats",)

# The trainer's arguments that a stack's loop knows: the values that it knows, of this very type,
TRAINER_VALUES: dict[str, tuple[Any, ...]] = {
    "_target_": ("lightning.Trainer",),
    "accelerator": ("auto", "cpu", "gpu", "cuda"),
    "devices": (1,),
    "max_epochs": (-1,),
    "precision": ("32-true", "tf32", "64-true", "bf16-mixed"),
    "check_val_every_n_epoch": (None,),
    "limit_val_batches": (0, 0.0, 1.0),  # the whole number 1 would be one batch
    "enable_checkpointing": (False,),
}
# whole numbers of at least 1,
TRAINER_COUNTS = ("max_steps", "log_every_n_steps", "val_check_interval")
# and what changes no result
TRAINER_DISPLAY = (
    "num_sanity_val_steps",
    "enable_model_summary",
    "enable_progress_bar",
    "logger",
)


def shape_key(config: DictConfig) -> str:
    """A text that is equal for two resolved configs if their runs may be members of one stack.

    Raises:
        NotStackable: saying why a run cannot be a member of any.
    """
    for key, value in config.trainer.items():
        if not _is_known(str(key), value):
            raise NotStackable(f"trainer.{key}={value}: a stack does not know it")
    for name, callback in config.callbacks.items():
        if callback["_target_"] not in CALLBACKS:
            raise NotStackable(f"callbacks.{name}: a stack does not know {callback['_target_']}")
    values: Any = OmegaConf.to_container(config)
    shared = {key: values[key] for key in SHARED}
    for path in _per_member(config):
        *parents, leaf = path.split(".")
        node = shared
        for parent in parents:
            node = node.get(parent, {})
        node.pop(leaf, None)
    if config.callbacks:  # what is recorded depends on whether there is weight decay
        shared["decays"] = config.weight_decay > 0
    return json.dumps(shared, sort_keys=True, default=str)


def _is_known(key: str, value: Any) -> bool:
    """Whether a stack's loop does what Lightning's trainer does with this argument."""
    if key in TRAINER_VALUES:
        return any(type(value) is type(x) and value == x for x in TRAINER_VALUES[key])
    if key in TRAINER_COUNTS:
        return type(value) is int and value >= 1
    if key == "gradient_clip_val":
        return value is None or (type(value) in (int, float) and value > 0)
    return key in TRAINER_DISPLAY


def _per_member(config: DictConfig) -> list[str]:
    """The paths in a config, within SHARED, in which members of one stack may differ."""
    paths = list(PER_MEMBER)
    model = get_object(config.model["_target_"])
    paths += [f"model.{name}" for name in getattr(model, "per_member", ())]
    path = "optimizer"
    chosen = config.optimizer
    while "inner" in chosen:
        path = f"{path}.inner"
        chosen = chosen.inner
    optimizer, _ = stackable(get_class(chosen["_target_"]))
    paths += [f"{path}.{name}" for name in optimizer.options]
    for name in config.callbacks:
        paths += [f"callbacks.{name}.columns", f"callbacks.{name}.folder"]
    return paths


def member_bytes(
    shapes: Sequence[Sequence[int]],
    states: float,
    positions: int,
    itemsize: int,
) -> int:
    """Estimate the memory of one member: weights, gradients, optimizer state and outputs.

    Args:
        shapes: of the parameters. The outputs of a matrix (out, ...) count four times: with what
            follows them, and the gradients of both.
        states: entries of the optimizer's state, over entries of the weights.
        positions: at which a matrix is applied in a step: examples, or tokens.
        itemsize: bytes of a number.
    """
    parameters = sum(math.prod(shape) for shape in shapes)
    outputs = sum(shape[0] for shape in shapes if len(shape) >= 2)
    return itemsize * (round((2 + states) * parameters) + 4 * positions * outputs)


def parts(costs: Sequence[float], devices: int) -> list[int]:
    """Return into how many parts to divide each group of jobs, for devices of one speed.

    No part then costs more than the share of one device.

    Args:
        costs: of the groups, in any unit.

    Example:
        >>> parts([1, 4, 9], devices=4)
        [1, 2, 3]
    """
    share = sum(costs) / devices
    counts = []
    for cost in costs:
        # rounded, as sums of floating point numbers may be a little too small
        counts.append(max(1, math.ceil(round(cost / share, 6))) if share > 0 else 1)
    return counts


def split(
    members: Sequence[T],
    limit: int,
    seed: Callable[[T], int],
) -> list[list[T]]:
    """Divide members into the fewest stacks of at most `limit`.

    Whole seeds stay together, so that they share their batches, unless that takes more stacks. Then
    the members are divided evenly, in the order of their seeds.
    """
    ordered = sorted(members, key=seed)
    whole: list[list[T]] = []
    for _, group in groupby(ordered, key=seed):
        same = list(group)
        if whole and len(whole[-1]) + len(same) <= limit:
            whole[-1] += same
        else:
            whole.append(same)
    count = math.ceil(len(ordered) / limit)
    if len(whole) <= count and all(len(stack) <= limit for stack in whole):
        return whole
    bounds = [i * len(ordered) // count for i in range(count + 1)]
    return [ordered[start:end] for start, end in pairwise(bounds)]
