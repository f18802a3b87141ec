"""Which job is which, and which are done: a job is known by what it trains, and so is its folder."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mupl.errors import ConfigError
from mupl.sweep.results import RESULT_FILE

UNTOLD = ("logger", "rerun", "metric")  # keys that do not change what a run computes
RERUN = ("missing", "failed", "all")


def job_id(config: DictConfig) -> str:
    """12 hexadecimal digits of a hash of the resolved config without `UNTOLD` and the paths of outputs."""
    return _hash(config)


def sweep_id(config: DictConfig) -> str:
    """Name of a multirun's folder: its experiment or data, along what, and a hash of all that it does not sweep but
    width and seed.

    So a sweep to which a width or a seed is added finds what it did before, and sweeps of different things keep apart.
    """
    choices = config.hydra.runtime.choices
    names = [choices.get("experiment") or choices.get("data"), choices.get("along")]
    name = "_".join(str(choice) for choice in names if choice).replace("/", "_")
    unsaid = {*swept_keys(config), "width", "seed"}
    return f"{name}-{_hash(config, unsaid)[:8]}"


def swept_keys(config: DictConfig) -> dict[str, int]:
    """The keys that a multirun sweeps, each with its number of values (0: a sweeper draws them from an interval).

    The command line's are over the sweeper's params.
    """
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    task: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)  # may name keys that only jobs have
    overrides = OverridesParser.create().parse_overrides([*params, *task])
    last_of_key = {o.get_key_element().lstrip("+~"): o for o in overrides}
    swept = {key: o for key, o in last_of_key.items() if o.is_sweep_override()}
    return {key: 0 if o.is_interval_sweep() else len(list(o.sweep_string_iterator())) for key, o in swept.items()}


def finished(folder: Path, job: str, rerun: str = "missing") -> dict[str, Any] | None:
    """The result that a job left earlier, if it is not to run again: `rerun` missing, failed (those too) or all jobs.

    Args:
        job: its id; a result of another job, in a folder whose name does not follow from the id, is none of it.

    Raises:
        ConfigError: on another value of `rerun`.
    """
    if rerun not in RERUN:
        raise ConfigError(f"rerun={rerun}: must be one of {', '.join(RERUN)}")
    file = folder / RESULT_FILE
    if rerun == "all" or not file.exists():
        return None
    row = json.loads(file.read_text())
    again = row.get("job") != job or (rerun == "failed" and row["status"] == "failed")
    return None if again else row


def register_resolvers() -> None:
    """Make `${job_id:}` and `${sweep_id:}` known to configs."""
    OmegaConf.register_new_resolver("job_id", lambda *, _root_: job_id(_root_), replace=True)
    OmegaConf.register_new_resolver("sweep_id", _cached_sweep_id, replace=True)


def _cached_sweep_id(*, _root_: DictConfig) -> str:
    """That of the multirun's own config; the jobs', which would each have another, get its cache from Hydra."""
    cache = OmegaConf.get_cache(_root_).setdefault("sweep_id", {})
    if "" not in cache:
        cache[""] = sweep_id(_root_)
    return cache[""]


def own(config: DictConfig) -> dict[str, Any]:
    """What is not Hydra's of a config, with its interpolations."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in plain.items() if key != "hydra"}


def _hash(config: DictConfig, without: Collection[str] = ()) -> str:
    told = OmegaConf.create(_without_outputs(own(config)))
    for key in (*UNTOLD, *without):
        if OmegaConf.select(told, path := key.replace("/", "."), default=None) is not None:
            OmegaConf.update(told, path, None, force_add=True)  # not removed: others may be interpolated from it
    plain = OmegaConf.to_container(told, resolve=not without)  # what is left out may be interpolated elsewhere
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _without_outputs(node: Any) -> Any:
    """The containers with None in place of what is interpolated from Hydra, such as its output folder."""
    if isinstance(node, dict):
        return {key: _without_outputs(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_outputs(value) for value in node]
    return None if isinstance(node, str) and "${hydra:" in node else node


register_resolvers()
