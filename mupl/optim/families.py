"""Which optimizers there are, by name, and which family's rules each one follows."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from mupl.errors import ConfigError

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}

# `sgd`: the update is proportional to the gradient; `adam`: entrywise and invariant to the gradient's scale.
FAMILIES: dict[type[Optimizer], str] = {SGD: "sgd", Adam: "adam", AdamW: "adam"}

OptimizerLike = str | type[Optimizer] | Callable[..., Optimizer]


def resolve(optimizer: OptimizerLike) -> Callable[..., Optimizer]:
    """An optimizer's constructor, given it, its name, or a partial of it.

    Raises:
        ConfigError: on an unknown name.
    """
    if not isinstance(optimizer, str):
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer={optimizer}: must be one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[optimizer]


def family_of(optimizer: Callable[..., Any]) -> str:
    """The family whose rules an optimizer's constructor follows.

    Raises:
        ConfigError: if it is not known; pass `family=` then.
    """
    constructor = optimizer.func if isinstance(optimizer, partial) else optimizer
    for known in inspect.getmro(constructor) if inspect.isclass(constructor) else ():
        if known in FAMILIES:
            return FAMILIES[known]
    name = getattr(constructor, "__name__", constructor)
    raise ConfigError(f"optimizer={name}: its family is not known; say family='sgd' or 'adam'")
