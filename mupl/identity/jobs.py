"""Which job is which: its id, and the row that tells it from others.

A job's id is a hash of what it trains. So the same command finds what it did before, whatever was
said about where data lie, what is logged and what is shown.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, flag_override

from mupl.files import read_manifest
from mupl.identity.provenance import leaves, provenance

# Columns of a sweep's table of results: IDENTITY, SETTINGS, every other key that a command set, and
# OUTCOMES
IDENTITY = ("width", "lr", "seed", "parametrization", "optimizer")
SETTINGS = ("model", "data", "depth", "batch_size", "max_steps")
OUTCOMES = (
    "status",
    "steps",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "readout_norm",
    "seconds",
    "error",
    "folder",
)
METRICS = ("val_loss", "train_loss")  # what runs may be compared by

# Dotted paths in a config that do not change what a run computes, but for rounding. What lies below
# is ignored too. A batch is the same however devices and micro-batches share it.
# `trainer.log_every_n_steps` is none of them: it decides which rows metrics.csv holds, and at which
# update a run whose loss became infinite is stopped.
IGNORED_KEYS = (
    "logger",
    "name",
    "rerun",
    "metric",
    "halving",
    "target",
    "check",
    "expect",
    "figure",
    "threads",
    "resume",
    "checkpoint",
    "sample",
    "micro_batches",
    "compile",
    "checkpoint_activations",
    "data.download",
    "data.cache",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
)
# Data sets that are the same wherever they lie, so that their `data.root` is ignored too. The root
# of any other source (image_folder, tokens, one of your own) decides what is read.
NAMED_DATA = ("cifar10", "digits", "fashion_mnist", "mnist")

# Lightning's arguments that are a share if they are a float, and a number of batches if an int
SHARE_OR_NUMBER = (
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "val_check_interval",
)
# Keys that must be whole numbers: 8.0 is refused where 8 is trained
WHOLE_NUMBERS = (
    "width",
    "depth",
    "base_width",
    "base_depth",
    "batch_size",
    "base_batch_size",
    "max_steps",
    "base_steps",
    "seed",
)
TYPED = (*SHARE_OR_NUMBER, *WHOLE_NUMBERS)  # where 1.0 is not 1
MLPS = ("mupl.models.MLP", "mupl.models.mlp.MLP")
# Hydra's values that say where files go. Any other, such as `hydra:job.num`, is a value like those
# of the config.
OUTPUT_PATH = re.compile(r"\$\{hydra:(runtime\.output_dir|run\.|sweep\.|output_subdir)")
REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")  # to another key, by its whole path
GLOB = re.compile(r"[*?[]")  # what tells a glob from a name


def job_id(config: DictConfig) -> str:
    """Return 12 hexadecimal digits, equal for two configs that train the same (see `trained`)."""
    return _hash(trained(config))


def sweep_id(config: DictConfig) -> str:
    """Return 12 hexadecimal digits, equal for two multiruns that do the same but for what is swept.

    Width and seed count as swept even where they are not.
    """
    # Not resolved: what jobs only have, such as a swept key, may be interpolated
    plain = _plain(config, resolve=False)
    _delete(plain, [*ignored_keys(plain), *swept_keys(config), "width", "seed"])
    if OmegaConf.select(config, "target.in_proportion"):  # then jobs follow from the target
        plain["target"] = OmegaConf.to_container(config.target)
    return _hash(plain)


def trained(config: DictConfig) -> dict[str, Any]:
    """Return a config's resolved values without Hydra's part, output paths and ignored keys."""
    plain = _plain(config, resolve=True)
    _delete(plain, ignored_keys(plain))
    return plain


def ignored_keys(plain: dict[str, Any]) -> tuple[str, ...]:
    """Return `IGNORED_KEYS`, and `data.root` where the data set is one of `NAMED_DATA`."""
    target = str((plain.get("data") or {}).get("_target_"))
    if target.startswith("mupl.data.") and target.rpartition(".")[2] in NAMED_DATA:
        return (*IGNORED_KEYS, "data.root")
    return IGNORED_KEYS


def swept_keys(config: DictConfig) -> dict[str, int]:
    """Return the keys that a multirun sweeps, each with its number of values.

    The command line goes over the sweeper's params. The number is 0 where a sweeper draws from an
    interval.
    """
    swept = {}
    for key, override in dict(parsed_overrides(config)).items():  # the last one of a key counts
        if override.is_interval_sweep():
            swept[key] = 0
        elif override.is_sweep_override():
            values = list(override.sweep_string_iterator())
            swept[key] = len(values)
    return swept


def parsed_overrides(config: DictConfig) -> list[tuple[str, Override]]:
    """Return the keys that a multirun sets: the sweeper's params, and then the command line's."""
    params = config.hydra.sweeper.get("params") or {}
    texts = [f"{key}={value}" for key, value in params.items()]
    parsed = OverridesParser.create().parse_overrides(texts + task_overrides(config))
    return [(override.get_key_element().lstrip("+~"), override) for override in parsed]


def task_overrides(config: DictConfig) -> list[str]:
    """Return the overrides of a command line, not resolved, as they may name keys of jobs only."""
    task: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    return task


def job_row(config: DictConfig, hydra: Any, rooms: Iterable[str] = ()) -> dict[str, Any]:
    """Return all but the outcome of a job's row of results.

    Entries: job (its id), `IDENTITY`, `SETTINGS`, every other key that the command set, and under
    "config" and "choices" the values of keys that other commands may set: all that is trained, and
    the names of the chosen config groups. "provenance" says by which code, of which data.

    Args:
        config: of the job; may hold Hydra's part.
        hydra: Hydra's part.
        rooms: parts of mupl that train the job beside those that train every job.
    """
    plain = trained(config)
    chosen: Any = OmegaConf.to_container(hydra.runtime.choices)
    choices = {group: choice for group, choice in chosen.items() if "/" not in group}
    task: Any = OmegaConf.to_container(hydra.overrides.task)
    ignored = ignored_keys(plain)
    overridden = overridden_keys(task)
    row: dict[str, Any] = {"job": _hash(plain)}
    for key in (*IDENTITY, *SETTINGS, *overridden):
        if not is_ignored(key, ignored):
            row[key] = setting(key, plain, choices)
    made_by = provenance(plain, rooms)
    made_by["accelerator"] = _meant(plain)["trainer"].get("accelerator")
    row["config"] = plain
    row["choices"] = choices
    row["provenance"] = made_by
    return row


def overridden_keys(overrides: Iterable[str]) -> list[str]:
    """Return the keys that overrides of the command line set or delete, but nested groups."""
    keys = []
    for text in overrides:
        key, _, _ = text.lstrip("+~").partition("=")
        if "/" not in key:
            keys.append(key)
    return keys


def setting(key: str, config: dict[str, Any], choices: dict[str, Any]) -> Any:
    """Return the name of a group's choice, or else the value at a dotted path, or None."""
    if key in choices:
        return choices[key]
    value: Any = config
    for name in key.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def differing_settings(
    config: DictConfig, other: DictConfig, without: Iterable[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two configs would train different things, with both values.

    A key that only follows from others, as `trainer.max_steps` does from `max_steps`, is left out.
    If a config group made another choice, the group stands for all keys below it.

    Args:
        config, other: of two jobs, with Hydra's part.
        without: dotted keys that do not count, with all that lies below them.
    """
    said = _by_key(_plain(config, False))
    others_said = _by_key(_plain(other, False))
    choices = config.hydra.runtime.choices
    others_choices = other.hydra.runtime.choices
    found: dict[str, tuple[Any, Any]] = {}
    for key, both in differing_values(trained(config), trained(other)).items():
        text = said.get(key)
        follows = "${" in str(text) and text == others_said.get(key)
        if follows or is_ignored(key, without):
            continue
        group = key.partition(".")[0]
        choice = choices.get(group)
        other_choice = others_choices.get(group)
        if choice != other_choice:
            found[group] = (choice, other_choice)
        else:
            found[key] = both
    return found


def differing_values(plain: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the values, by dotted key, in which what two jobs train differs (see `trained`)."""
    values = _by_key(plain)
    others = _by_key(other)
    found = {}
    for key in {**values, **others}:
        name = key.rpartition(".")[2]
        both = (values.get(key), others.get(key))
        if _canonical(both[0], name) != _canonical(both[1], name):
            found[key] = both
    return found


def _by_key(plain: dict[str, Any]) -> dict[str, Any]:
    """Return a config's values by dotted key, with what they mean here."""
    return dict(leaves(_meant(plain)))


def without_hydra(config: DictConfig) -> DictConfig:
    """Return the values of a config without Hydra's part, in a config to which keys can be added.

    The values are not copied: what is set in one of the configs is set in the other.
    """
    values = OmegaConf.create({})
    with flag_override(values, "no_deepcopy_set_nodes", True):
        for key, value in config.items_ex(resolve=False):
            if key != "hydra":
                values[key] = value
    OmegaConf.copy_cache(from_config=config, to_config=values)
    return values


def _plain(config: DictConfig, resolve: bool) -> dict[str, Any]:
    """Return a config's values without Hydra's part.

    Paths of output that are interpolated from Hydra are None. This makes no copy of the config,
    which would take several times as long as the rest.
    """
    plain = {}
    keys = [key for key in config if key not in ("hydra", *IGNORED_KEYS)]
    with hydra_of(config):
        for key, value in config.items_ex(resolve=False, keys=keys):
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=False)
            plain[str(key)] = _entry(config, key, value, resolve)
    return plain


@contextmanager
def hydra_of(config: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` mean the Hydra part of this config, if it has one."""
    if "hydra" not in config:
        yield
        return
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = cast(Any, config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _entry(parent: Any, key: Any, value: Any, resolve: bool) -> Any:
    """Return the entry `key` of a config as plain data; `value` is the same, not resolved."""
    if isinstance(value, str) and "${" in value:
        if OUTPUT_PATH.search(value):
            return None
        if not resolve:
            return value
        reference = REFERENCE.fullmatch(value)
        # OmegaConf parses a text like any grammar, which takes ten times as long as a look
        found = OmegaConf.select(parent._get_root(), reference[1]) if reference else parent[key]
        if not OmegaConf.is_config(found):
            return found
        value = OmegaConf.to_container(found, resolve=False)
    if isinstance(value, dict):
        node = parent[key]
        return {name: _entry(node, name, entry, resolve) for name, entry in value.items()}
    if isinstance(value, list):
        node = parent[key]
        return [_entry(node, i, entry, resolve) for i, entry in enumerate(value)]
    return value


def _delete(plain: dict[str, Any], keys: Iterable[str]) -> None:
    """Remove the entries at dotted paths, if they are there."""
    for key in keys:
        # a config group within another is spelled with a slash
        *parents, last = key.replace("/", ".").split(".")
        node: Any = plain
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)


def is_ignored(key: str, ignored: Iterable[str]) -> bool:
    """Say whether a key is one of the ignored ones, or lies below one."""
    return any(key == path or key.startswith(f"{path}.") for path in ignored)


def _hash(plain: dict[str, Any]) -> str:
    text = json.dumps(_canonical(_meant(plain)), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _meant(plain: dict[str, Any]) -> dict[str, Any]:
    """Return a config's values with what they mean here in place of what was said."""
    meant = dict(plain)
    meant["trainer"] = dict(plain["trainer"])
    said = plain["trainer"].get("accelerator")
    if said in ("auto", "cuda"):
        meant["trainer"]["accelerator"] = "gpu" if said == "cuda" else _accelerator()
    data = plain.get("data")
    manifest = read_manifest(str(data.get("root"))) if isinstance(data, dict) else None
    if manifest is not None:  # tokens, which are the same wherever they lie
        meant["data"] = {**plain["data"], "root": manifest["hash"]}
    model = plain.get("model")
    if isinstance(model, dict) and model.get("_target_") in MLPS and not plain.get("base_depth"):
        depth = model.get("depth")
        if depth == "${depth}":  # of a config that is not resolved
            depth = plain.get("depth")
        for key in ("width", "base_width"):
            meant[key] = _one_width(plain.get(key), depth)
    return meant


@cache
def _accelerator() -> str:
    """Return what Lightning takes for `accelerator=auto`."""
    import torch  # not before, as the shell completes and shows configs without it

    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return "gpu" if has_gpu else "cpu"


def _one_width(width: Any, depth: Any) -> Any:
    """Return the width that all of `depth` layers have, if `width` is a list that says so."""
    if isinstance(width, list) and len(width) == depth and len(set(map(str, width))) == 1:
        return width[0]
    return width


def _canonical(value: Any, key: str = "") -> Any:
    """Return a value in the one spelling of all that mean the same: entries sorted, 1.0 as 1.

    The order of globs on names stays as it is, as the last one that matches a name counts.
    """
    if isinstance(value, dict):
        entries = {}
        for name, entry in value.items():
            entries[str(name)] = _canonical(entry, str(name))
        if any(GLOB.search(name) for name in entries):
            return list(entries.items())
        return sorted(entries.items())
    if isinstance(value, list):
        return [_canonical(entry, key) for entry in value]
    if isinstance(value, float) and value.is_integer() and key not in TYPED:
        return int(value)
    return value
