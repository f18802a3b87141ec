"""A job on disk: known by a hash of what it trains, done once its `result.json` is there."""

import hashlib
import json
import pickle
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mupl.errors import ConfigError
from mupl.files import write_atomically

RESULT_FILE = "result.json"
IGNORED_KEYS = ("logger", "rerun", "metric")  # keys that do not change what a run computes
RERUN = ("missing", "failed", "all")


def job_id(config: DictConfig) -> str:
    """12 hexadecimal digits of a hash of the resolved config without `IGNORED_KEYS` and the paths of outputs."""
    return config_hash(config)


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


def own(config: DictConfig) -> DictConfig:
    """A copy of a config without Hydra's part."""
    nodes = config.__dict__["_content"]
    hydra = nodes.pop(
        "hydra", None
    )  # three quarters of it, and in processes of other launchers nothing to be pickled
    try:
        mine: DictConfig = pickle.loads(pickle.dumps(config))  # five times as fast as copy.deepcopy
    finally:
        if hydra is not None:
            nodes["hydra"] = hydra
    OmegaConf.set_struct(mine, None)
    return mine


def config_hash(config: DictConfig, without: Collection[str] = ()) -> str:
    """As `job_id`, but of a config without the keys in `without` too."""
    told = own(config)
    _drop_outputs(told)
    for key in (*IGNORED_KEYS, *without):
        if OmegaConf.select(told, path := key.replace("/", "."), default=None) is not None:
            OmegaConf.update(
                told, path, None, force_add=True
            )  # not removed: others may be interpolated from it
    plain = OmegaConf.to_container(
        told, resolve=not without
    )  # what is left out may be interpolated elsewhere
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _drop_outputs(node: DictConfig | ListConfig) -> None:
    """Put None in place of what is interpolated from Hydra, such as its output folder."""
    keys: Iterable[Any] = node if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        child: Any = node._get_node(key)
        if (
            isinstance(child, DictConfig | ListConfig)
            and not child._is_none()
            and not child._is_interpolation()
        ):
            _drop_outputs(child)
        elif "${hydra:" in str(child._value()):
            node[key] = None


def write_result(folder: Path, row: dict[str, Any]) -> None:
    """Write a run's row, into a folder that may not be there yet; a NaN is kept as such (JSON as Python reads it)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RESULT_FILE, json.dumps(row, indent=1, default=str))


OmegaConf.register_new_resolver("job_id", lambda *, _root_: job_id(_root_), replace=True)
