"""The keys of a command line: which there are, what is swept, and Hydra's errors in plain words."""

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    ConfigCompositionException,
    InstantiationException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from mupl.errors import ConfigError, raised_by_user
from mupl.identity import parsed_overrides
from mupl.names import not_installed

PACKAGE = Path(__file__).parents[1]
IN_WHEEL = PACKAGE / "conf"
CONF = IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent / "conf"  # the latter in a checkout
MAX_JOBS = 20_000  # of a sweep that are checked before the first is trained

# The head of an error of Hydra's that a more helpful one stands for
_NO_KEY = re.compile(r"Could not override '(.*?)'")
_SEVERAL = re.compile(r"Ambiguous value for argument '(.*?)=(.*?)' 1\.")
_TARGET = re.compile(r"Error (?:in call to|locating) target '(.*?)'")
_FULL_KEY = re.compile(r"full_key: (\S+)")

_TYPED = {"None": "null", "True": "true", "False": "false"}


@cache
def known_keys() -> tuple[str, ...]:
    """Return the top-level keys that conf/train.yaml has, config groups among them."""
    primary = OmegaConf.load(CONF / "train.yaml")
    keys = [str(key) for key in primary if key != "defaults"]
    for entry in primary.defaults:
        if OmegaConf.is_dict(entry):
            keys += [str(group).removeprefix("optional ") for group in entry]
    return tuple(keys)


def refuse_unknown(keys: Iterable[str], config: DictConfig) -> None:
    """Refuse a top-level key that nothing reads, however it came into a config.

    A key of the user's own that other values refer to, as `${case.lr}` to `case`, is read.

    Raises:
        ConfigError: naming the key, and the one that is spelled most alike.
    """
    text = str(OmegaConf.to_container(config, resolve=False))
    for key in keys:
        is_read = re.search(rf"\$\{{{re.escape(key)}[.\[}}]", text)
        if key not in known_keys() and not is_read:
            raise ConfigError(unknown_key(key, known_keys()))


def refuse_no_config(overrides: Iterable[str]) -> None:
    """Refuse null or a number for a config group, which Hydra answers by a traceback.

    Raises:
        ConfigError: naming the group.
    """
    parser = OverridesParser.create()
    for text in overrides:
        group, equals, _ = text.partition("=")
        if equals and (CONF / group).is_dir():
            values = _values(parser.parse_override(text), parser)
            if any(value is None or isinstance(value, int | float) for value in values or ()):
                raise ConfigError(f"{text}: must be the name of a config; --help lists them")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that there is no key of that dotted name, and which may be meant."""
    parent, _, name = key.rpartition(".")
    known = [str(other) for other in known if other != "hydra"]
    alike = difflib.get_close_matches(name, known, n=1)
    prefix = f"{parent}." if parent else ""
    text = f"{key}: there is no such key"
    if alike:
        return f"{text}; did you mean {prefix}{alike[0]}?"
    if parent:
        return f"{text} (there are {', '.join(known)})"
    return f"{text}; --help lists them"


def swept_values(config: DictConfig) -> dict[str, list[Any] | None]:
    """Return the values of each key that a multirun sets, or None where a sweeper draws them.

    The command line goes over the sweeper's params. A key that is not swept has one value.

    Raises:
        ConfigError: if a key has no value, such as one of an empty range.
    """
    parser = OverridesParser.create()
    return {key: _values(override, parser) for key, override in parsed_overrides(config)}


def _values(override: Override, parser: OverridesParser) -> list[Any] | None:
    if override.is_delete():
        return [None]
    if not override.is_sweep_override():
        return [override.value()]
    if not override.is_discrete_sweep():
        return None
    key = override.get_key_element()
    texts = list(override.sweep_string_iterator())
    if not texts:
        raise ConfigError(f"{override.input_line}: has no values; a range ends before its stop")
    return [parser.parse_override(f"{key}={text}").value() for text in texts]


def swept_texts(config: DictConfig) -> dict[str, list[str]]:
    """Return the overrides that jobs get for each key that a multirun sets; none for a drawn one.

    A key that is not swept has one.
    """
    found = {}
    for key, override in parsed_overrides(config):
        if not override.is_sweep_override():
            found[key] = [str(override.input_line)]
        elif override.is_discrete_sweep():
            name = override.get_key_element()
            found[key] = [f"{name}={text}" for text in override.sweep_string_iterator()]
        else:
            found[key] = []
    return found


def jobs(swept: Mapping[str, list[Any] | None], limit: int) -> list[dict[str, Any]]:
    """Return the values (or overrides) that each job of a sweep has, at most `limit` jobs."""
    keys = []
    values = []
    for key, of_key in swept.items():
        if of_key is not None:
            keys.append(key)
            values.append(of_key)
    points = itertools.product(*values)
    found = []
    for point in itertools.islice(points, limit):
        found.append(dict(zip(keys, point, strict=True)))
    return found


def in_plain_words(error: BaseException) -> str:
    """Say what an error of Hydra's or OmegaConf's means for a command line."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: is missing, and has no default; say {error.full_key}=..."
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, InstantiationException):
        return _not_constructed(error, text)
    if several := _SEVERAL.search(text):
        key, values = several.groups()
        return f"{key}={values}: several values need -m (a sweep); one list is {key}=[{values}]"
    if no_key := _NO_KEY.search(text):
        cause = error.__cause__
        parent: Any = getattr(cause, "parent_node", None)
        siblings = list(parent) if OmegaConf.is_dict(parent) else []
        key = getattr(cause, "full_key", None) or no_key[1]
        if "." not in no_key[1]:
            siblings = [*known_keys()]
        return unknown_key(key, siblings)
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        text += f" {error.__cause__}"
    text, _, _ = " ".join(text.split()).partition(" Config search path:")
    return text


def as_typed(text: str) -> str:
    """Write the words of Python that a message gives keys as a command line has them.

    >>> as_typed("lr=None: must be a finite number > 0")
    'lr=null: must be a finite number > 0'
    """
    return re.sub(r"(?<==)(None|True|False)\b", lambda word: _TYPED[word[0]], text)


def _unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: must be key=value"
    values = [part for part in re.split(r"[,;]\s*", value) if part]
    alternatives = f"{key}={','.join(values)}" if values else f"{key}=VALUE"
    return (
        f"{override}: cannot be read; commas stand between values ({alternatives}), and a text "
        f"with other signs needs quotes within quotes: '{key}=\"...\"'"
    )


def _not_constructed(error: BaseException, text: str) -> str:
    """Name the key whose `_target_` refused its arguments, and give its reason."""
    target = _TARGET.search(text)
    full_key = _FULL_KEY.search(text)
    cause = error.__cause__
    if target is None or full_key is None or cause is None:
        return text
    reason = raised_by_user(cause) or " ".join(str(cause).split()) or type(cause).__name__
    if "locating" in target[0]:
        missing = cause.__cause__
        if isinstance(missing, ModuleNotFoundError) and missing.name:
            module, _, attribute = missing.name.rpartition(".")
            reason = f"{module} has no {attribute}" if module else not_installed(attribute)
        return f"{full_key[1]}._target_={target[1]}: cannot be imported ({reason})"
    return f"{full_key[1]} ({target[1]}): {reason}"
