"""What a config gives to a constructor, held against the names and types of its arguments."""

import inspect
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from mupl.errors import ConfigError
from mupl.training.overrides import unknown_key

WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NoneType: "null",
}


def check_arguments(group: str, config: DictConfig, beside: tuple[str, ...] = ()) -> None:
    """Check the values of a config group before its `_target_` is called with them.

    Args:
        group: its key.
        beside: keys that are for mupl, not for the constructor.

    Raises:
        ConfigError: on a key that the constructor does not take, or a value of another type.
    """
    try:
        constructor = get_object(config["_target_"])
        parameters = inspect.signature(constructor).parameters
    except Exception:  # not importable, which `instantiate` says, or without a signature
        return
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in map(str, config):
        if key.startswith("_") or key in beside:
            continue
        if key in parameters:
            _check_type(f"{group}.{key}", _plain(config[key]), parameters[key])
        elif not takes_any:
            raise ConfigError(unknown_key(f"{group}.{key}", parameters))


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _check_type(key: str, value: Any, parameter: inspect.Parameter) -> None:
    if isinstance(parameter.default, tuple):
        _check_list(key, value, parameter)
        return
    allowed = _members(parameter.annotation)
    if not set(allowed) <= set(WORDS):
        return  # a type that says nothing of what a config can hold
    if not any(_is_of(value, one) for one in allowed):
        words = " or ".join(WORDS[one] for one in allowed)
        raise ConfigError(f"{key}={value}: must be {words}")


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    is_union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _is_of(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, Real if kind is float else kind)


def _check_list(key: str, value: Any, parameter: inspect.Parameter) -> None:
    """Check a value against the tuple that is the default: the type of entries, and their number.

    The number is free unless the annotation has it, as `tuple[float, float]`.
    """
    default = parameter.default
    of_numbers = len(default) > 0 and all(_is_of(entry, float) for entry in default)
    annotation = parameter.annotation
    fixed = get_origin(annotation) is tuple and Ellipsis not in get_args(annotation)
    is_list = isinstance(value, list) and (not fixed or len(value) == len(default))
    if is_list and (not of_numbers or all(_is_of(entry, float) for entry in value)):
        return
    count = f"{len(default)} " if fixed else ""
    entries = "numbers" if of_numbers else "words"
    example = f"[{', '.join(map(str, default or ('a', 'b')))}]"
    raise ConfigError(f"{key}={value}: must be a list of {count}{entries}, such as {example}")
