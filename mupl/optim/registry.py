"""The optimizers: their names in `optimizer=NAME`, and how the updates of each one scale.

Our own classes register their name and say their rules themselves. Classes of torch and of
pytorch_optimizer are listed here. Any other optimizer trains too, if the user says its update kind.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

from mupl import optim
from mupl.errors import ConfigError
from mupl.optim.base import HasRules
from mupl.optim.shampoo import shampoo_rules
from mupl.optim.soap import soap_rules
from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind, as_optimizer_rules

Constructor = Callable[..., Optimizer]
OptimizerLike = str | type[Optimizer] | Constructor
C = TypeVar("C", bound=Constructor)

_BY_NAME: dict[str, Constructor] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def _always(kind: UpdateKind) -> Callable[..., OptimizerRules]:
    """Return what makes the rules of a class with updates of one kind, whatever its options."""
    return lambda **options: as_optimizer_rules(kind)


# Names of other packages' classes, which are imported when they are asked for
_ELSEWHERE = {"soap": "pytorch_optimizer:SOAP"}

# What makes the rules of other packages' optimizers of their options, by package and class, as
# pytorch_optimizer may not be installed.
_FOREIGN_RULES: dict[str, Callable[..., OptimizerRules]] = {
    "torch.SGD": _always(UpdateKind.SGD),
    "torch.Adam": _always(UpdateKind.ADAM),
    "torch.AdamW": _always(UpdateKind.ADAM),
    "pytorch_optimizer.Lion": _always(UpdateKind.ADAM),
    "pytorch_optimizer.SOAP": soap_rules,
    "pytorch_optimizer.Shampoo": shampoo_rules,
}


def register(name: str) -> Callable[[C], C]:
    """Make a class, or a partial of one, known as `optimizer=name`; for modules of `mupl.optim`."""

    def add(constructor: C) -> C:
        _BY_NAME[name] = constructor
        return constructor

    return add


def optimizers() -> Mapping[str, Constructor]:
    """Return every optimizer that has a name, by that name."""
    for module in pkgutil.iter_modules(optim.__path__, f"{optim.__name__}."):
        importlib.import_module(module.name)  # which registers what it defines
    return dict(_BY_NAME)


def resolve(optimizer: OptimizerLike) -> Constructor:
    """Return the constructor of an optimizer.

    Args:
        optimizer: its name; a class or a partial of one is returned as it is.

    Raises:
        ConfigError: on an unknown name, or one of a package that is not installed.
    """
    if callable(optimizer):
        return optimizer
    if optimizer in _ELSEWHERE:
        return _imported(optimizer)
    if isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer: must be the class {type(optimizer).__name__} or a functools.partial of "
            "it, not an optimizer of a model"
        )
    known = optimizers()
    if optimizer not in known:
        names = ", ".join([*known, *_ELSEWHERE])
        raise ConfigError(
            f"optimizer={optimizer}: must be one of {names}, a torch optimizer class, "
            "or a functools.partial of one"
        )
    return known[optimizer]


def _imported(name: str) -> Constructor:
    try:
        constructor: Constructor = pkgutil.resolve_name(_ELSEWHERE[name])
    except ImportError as error:
        raise ConfigError(
            f"optimizer={name}: needs a package: pip install 'mupl[optimizers]'"
        ) from error
    return constructor


def check_options(optimizer: Constructor, **scaled: float) -> None:
    """Refuse a partial that sets what param groups hold, as it would change nothing.

    Args:
        scaled: lr, eps and weight_decay at the base width.

    Raises:
        ConfigError: on an option of these names and another value.
    """
    _, options = unwrapped(optimizer)
    if callable(options.get("inner")):
        check_options(options["inner"], **scaled)
    for key, value in scaled.items():
        if key in options and options[key] != value:
            raise ConfigError(
                f"optimizer.{key}={options[key]}: each tensor gets its own {key}, scaled from the "
                f"one at the base width; say {key}={options[key]} beside the optimizer, not in it"
            )


def optimizer_rules(
    optimizer: OptimizerLike | Optimizer | UpdateKind | OptimizerRules,
    update_kind: UpdateKind | str | OptimizerRules | None = None,
) -> OptimizerRules:
    """Return the rules by which an optimizer's updates scale.

    Args:
        optimizer: a name, a class, a partial of one, an optimizer, an update kind ("sgd", "adam",
            "orthogonal", ...), or rules.
        update_kind: in place of what is known of the optimizer.

    Raises:
        ConfigError: on an unknown name, or an optimizer whose rules are not known.
    """
    if isinstance(optimizer, OptimizerRules):
        return optimizer
    if isinstance(optimizer, str) and optimizer in list(UpdateKind):
        return as_optimizer_rules(optimizer)
    if isinstance(optimizer, Optimizer):
        optimizer = type(optimizer)
    constructor, options = unwrapped(resolve(optimizer))
    known = _known_rules(constructor, options)
    if isinstance(update_kind, OptimizerRules):
        return update_kind
    if update_kind is not None:
        rules = as_optimizer_rules(update_kind)
        if known is None:
            return rules
        return replace(
            rules,
            idle_steps=known.idle_steps,
            settled=known.settled,
            matrix_eps=known.matrix_eps,
        )
    if known is not None:
        return known
    name = getattr(constructor, "__name__", type(constructor).__name__)
    kinds = ", ".join(repr(str(kind)) for kind in UpdateKind)
    raise ConfigError(
        f"optimizer={name}: how its updates scale is not known; say update_kind= one of {kinds} "
        "(on the command line +optimizer.update_kind=)"
    )


def _known_rules(
    constructor: Callable[..., Any], options: Mapping[str, Any]
) -> OptimizerRules | None:
    if not inspect.isclass(constructor):
        return None
    if issubclass(constructor, HasRules):
        return constructor.rules(**options)
    for base in inspect.getmro(constructor):
        if qualified(base) in _FOREIGN_RULES:
            return _FOREIGN_RULES[qualified(base)](**options)
    return None


def qualified(constructor: Callable[..., Any]) -> str:
    """Package and class, such as "torch.Adam": how other packages' optimizers are listed."""
    package = constructor.__module__.partition(".")[0]
    return f"{package}.{constructor.__name__}"


def unwrapped(optimizer: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Split a partial into its constructor and the options that it sets.

    Any other constructor is returned as it is, with no options.
    """
    if isinstance(optimizer, partial):
        return optimizer.func, dict(optimizer.keywords)
    return optimizer, {}
