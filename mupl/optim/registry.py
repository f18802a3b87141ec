"""Which optimizers there are, by name, and which rules each one follows."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from mupl.errors import ConfigError
from mupl.optim.elementwise import AdamAtan2, Lion, SignSGD
from mupl.optim.orthogonal import Orthogonal, routing
from mupl.parametrization.update_kinds import OptimizerRules, as_optimizer_rules

OptimizerLike = str | type[Optimizer] | Callable[..., Optimizer]

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "lion": Lion,
    "sign_sgd": SignSGD,
    "adam_atan2": AdamAtan2,
    "muon": Orthogonal,
    "shampoo_svd": partial(Orthogonal, method="svd", nesterov=False),
}

# Package and class -> update kind or rules, or what makes it of the constructor's arguments; by name, as a package may be missing.
UPDATE_KINDS: dict[str, str | OptimizerRules | Callable[..., OptimizerRules]] = {
    "torch.SGD": "sgd",
    "torch.Adam": "adam",
    "torch.AdamW": "adam",
    "mupl.Elementwise": "adam",
    "mupl.Orthogonal": routing,
    "pytorch_optimizer.Lion": "adam",
    # entries of size lr in a rotated basis; its first step only finds the basis
    "pytorch_optimizer.SOAP": replace(as_optimizer_rules("adam"), idle_steps=1),
    # L^(-1/4) G R^(-1/4) is U V^T at the first step and keeps its scale; (g g^T)^(-1/2) g of a vector has norm 1
    "pytorch_optimizer.Shampoo": "orthogonal",
}


def qualified(constructor: Callable[..., Any]) -> str:
    """The name by which optimizers are known, e.g. "torch.Adam": that of the package and that of the class."""
    return f"{constructor.__module__.partition('.')[0]}.{constructor.__name__}"


def unwrapped(optimizer: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A constructor, or that which a partial is of, and the options that the partial has chosen."""
    return (
        (optimizer.func, dict(optimizer.keywords))
        if isinstance(optimizer, partial)
        else (optimizer, {})
    )


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


def optimizer_rules(optimizer: Callable[..., Any]) -> OptimizerRules:
    """The rules that an optimizer's constructor follows.

    Raises:
        ConfigError: if it is not known; pass `update_kind=` then.
    """
    constructor, options = unwrapped(optimizer)
    for known in inspect.getmro(constructor) if inspect.isclass(constructor) else ():
        rules = UPDATE_KINDS.get(qualified(known))
        if rules is not None:
            return rules(**options) if callable(rules) else as_optimizer_rules(rules)
    name = getattr(constructor, "__name__", constructor)
    raise ConfigError(
        f"optimizer={name}: how its updates scale is not known; say update_kind='sgd', 'adam' or 'orthogonal'"
    )
