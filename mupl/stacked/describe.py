"""The setup of a job, and the memory that it takes, found out without its weights."""

import json
import math
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from mupl.data.splits import Examples
from mupl.data.text import Tokens
from mupl.initializers import on_meta
from mupl.optim.groups import build_optimizer
from mupl.stacked.model import check_stackable
from mupl.stacked.plan import member_bytes
from mupl.stacked.rules import NotStackable, has_default_options, stackable
from mupl.training.checks import check
from mupl.training.config import TUNED_KEYS, build_setup, tuned
from mupl.training.setup import Setup
from mupl.training.threads import step_flops

# By the values that are trained, without TUNED_KEYS: jobs that differ in nothing else share a
# setup, which holds no weights.
_SETUPS: dict[str, Setup] = {}


def describe(config: DictConfig, trained: dict[str, Any]) -> Setup:
    """Return the setup of a resolved config.

    Args:
        trained: see `mupl.identity.trained`.

    Raises:
        ConfigError: on bad input.
        NotStackable: if the data, the model or the optimizer cannot be stacked.
    """
    check(config)
    untuned = {key: value for key, value in trained.items() if key not in TUNED_KEYS}
    text = json.dumps(untuned, default=str)
    if text not in _SETUPS:
        _SETUPS[text] = _describe(config)
    setup = _SETUPS[text].with_tuned(**tuned(config))
    if config.callbacks and not getattr(setup.model, "member_axis", False):
        raise NotStackable(
            f"callbacks: a stack records models of mupl only, not a {type(setup.model).__name__}"
        )
    # A bad number or option would stop the whole stack, and torch finds it here. But the first
    # optimizer that is built makes torch import its compiler, in which time half a sweep of
    # small models is trained
    suspicious = not has_default_options(setup.optimizer_class)
    for scale in setup.scales.values():
        suspicious |= min(scale.lr, scale.eps, scale.weight_decay) < 0
    if suspicious:
        # of the tensors alone: a shared model has the multipliers of another job
        build_optimizer(setup.optimizer_class, setup.model.named_parameters(), setup.scales)
    return setup


def _describe(config: DictConfig) -> Setup:
    splits = instantiate(config.data)
    if not isinstance(splits, Examples | Tokens):
        raise NotStackable(
            f"data: {config.data['_target_']} returns none of Splits, Arrays and Tokens"
        )
    with on_meta():
        setup = build_setup(config, splits.model_args)
    check_stackable(setup)
    stackable(setup.optimizer_class)
    return setup


def flops(config: DictConfig, setup: Setup) -> float:
    """Estimate the floating point operations of the training of a job."""
    return config.max_steps * step_flops(setup.infos, instantiate(config.data), config.batch_size)


def nbytes(config: DictConfig, setup: Setup) -> int:
    """Estimate the memory in bytes that a job takes in a stack."""
    splits = instantiate(config.data)
    positions = config.batch_size  # at which there is an output: one an image, or one a token
    if isinstance(splits, Tokens):
        positions *= splits.context
    shapes = [info.shape for info in setup.infos.values()]
    entries = [math.prod(shape) for shape in shapes]
    optimizer, options = stackable(setup.optimizer_class)
    state = 0
    for info, of_weight in zip(setup.infos.values(), entries, strict=True):
        copies = of_weight // max(math.prod(info.copy_shape), 1)
        by_rule = []
        for rule in optimizer.rules.values():
            of_copy = rule.states(info.copy_shape, options).values()
            by_rule.append(copies * sum(math.prod(x) for x in of_copy))
        state += max(by_rule)
    if config.callbacks:
        # The recorder keeps the weights of the start, and those before a step, and computes
        # statistics of one weight at a time through two more tensors of its size
        state += 2 * sum(entries) + 2 * max(entries)
    states = state / sum(entries)
    itemsize = 8 if config.trainer.precision == "64-true" else 4
    return member_bytes(shapes, states, positions, itemsize)
