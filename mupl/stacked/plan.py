"""Which jobs of a sweep may be trained as one stack, and how large it may be: configs in, lists out; no training."""

import json
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from mupl.stacked.rules import NotStackable, stackable

T = TypeVar("T")

# What members of one stack must agree in: of all that a run reads, what shapes it or is set once. They may differ in
# PER_MEMBER of it, beside `per_member` of the model's class and the optimizer's options
SHARED = ("width", "batch_size", "model", "data", "optimizer", "trainer", "callbacks", "loss")
PER_MEMBER = ("trainer.gradient_clip_val",)
PRECISIONS = ("32-true", "tf32", "64-true", "bf16-mixed")
CALLBACKS = ("mupl.stats.callback.CoordinateStats",)
# What a stack's loop knows of the trainer's arguments; the rest must be as they are in conf/trainer/auto.yaml
TRAINER: dict[str, Callable[[Any], bool]] = {
    "_target_": lambda value: value == "lightning.Trainer",
    "accelerator": lambda value: value in ("auto", "cpu", "gpu", "cuda"),
    "devices": lambda value: value == 1,
    "max_epochs": lambda value: value == -1,
    "precision": lambda value: value in PRECISIONS,
    "val_check_interval": lambda value: isinstance(value, int),
    "check_val_every_n_epoch": lambda value: value is None,
    "limit_val_batches": lambda value: value in (0, 1.0),
    "enable_checkpointing": lambda value: value is False,
    "max_steps": bool, "log_every_n_steps": bool,
    "gradient_clip_val": lambda value: value is None or (type(value) in (int, float) and value > 0),
    "num_sanity_val_steps": lambda value: True, "enable_model_summary": lambda value: True,
    "enable_progress_bar": lambda value: True, "logger": lambda value: True,
}  # fmt: skip


def shape_key(config: DictConfig) -> str:
    """A text that is equal for two resolved configs if their runs may be members of one stack.

    Raises:
        NotStackable: saying why a run cannot be a member of any.
    """
    for key, value in config.trainer.items():
        if key not in TRAINER or not TRAINER[key](value):
            raise NotStackable(f"trainer.{key}={value}: a stack does not know it")
    for name, callback in config.callbacks.items():
        if callback["_target_"] not in CALLBACKS:
            raise NotStackable(f"callbacks.{name}: a stack does not know {callback['_target_']}")
    optimizer, _ = stackable(get_class(config.optimizer["_target_"]))
    own = getattr(get_class(config.model["_target_"]), "per_member", ())
    keys = [
        *PER_MEMBER,
        *(f"model.{name}" for name in own),
        *(f"optimizer.{name}" for name in optimizer.options),
    ]
    keys += [
        f"callbacks.{name}.{key}" for name in config.callbacks for key in ("columns", "folder")
    ]
    told: Any = OmegaConf.to_container(config)
    shared = {key: told[key] for key in SHARED}
    for key in keys:
        node, _, leaf = key.rpartition(".")
        _at(shared, node).pop(leaf, None)
    if config.callbacks:  # what is recorded depends on whether there is weight decay
        shared["decays"] = config.weight_decay > 0
    return json.dumps(shared, sort_keys=True, default=str)


def _at(container: Any, path: str) -> dict[str, Any]:
    for name in path.split(".") if path else ():
        container = container.get(name, {})
    return container


def member_bytes(
    shapes: Sequence[Sequence[int]], states: float, positions: int, itemsize: int
) -> int:
    """About the memory of one member in bytes: of weights, gradients, the optimizer's state, and outputs.

    Args:
        shapes: of the parameters; the outputs of a matrix (out, ...) are counted four times (with what follows it, and
            the gradients of both).
        states: entries of the optimizer's state, over those of the weights.
        positions: at which a matrix is applied in a step: examples, or tokens.
    """
    parameters = sum(math.prod(shape) for shape in shapes)
    outputs = sum(shape[0] for shape in shapes if len(shape) >= 2)
    return itemsize * (round((2 + states) * parameters) + 4 * positions * outputs)


def split(members: Sequence[T], limit: int, seed: Callable[[T], int]) -> list[list[T]]:
    """Stacks of at most `limit` members; those of one seed stay together, so that they share their batches.

    Whole seeds are put into one stack as long as they fit; the members of a seed that do not are divided evenly.
    """
    stacks: list[list[T]] = []
    open_stack: list[T] = []
    for _, run in groupby(sorted(members, key=seed), key=seed):
        same = list(run)
        parts = -(-len(same) // limit)
        for i in range(parts):
            part = same[i * len(same) // parts : (i + 1) * len(same) // parts]
            if len(open_stack) + len(part) > limit or (open_stack and parts > 1):
                stacks.append(open_stack)
                open_stack = []
            open_stack = open_stack + part
    return [*stacks, open_stack] if open_stack else stacks
