"""A job on disk: known by a hash of what it trains, done once its `result.json` is there."""

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mupl.errors import ConfigError

RESULT_FILE = "result.json"
UNTOLD = ("logger", "rerun", "metric")  # keys that do not change what a run computes
RERUN = ("missing", "failed", "all")


def job_id(config: DictConfig) -> str:
    """12 hexadecimal digits of a hash of the resolved config without `UNTOLD` and the paths of outputs."""
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


def own(config: DictConfig) -> dict[str, Any]:
    """What is not Hydra's of a config, with its interpolations."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in plain.items() if key != "hydra"}


def config_hash(config: DictConfig, without: Collection[str] = ()) -> str:
    """As `job_id`, but of a config without the keys in `without` too."""
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


def write_atomically(path: Path, text: str) -> None:
    """The file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


def write_result(folder: Path, row: dict[str, Any]) -> None:
    """Write a run's row; a NaN is kept as such (JSON as Python reads it)."""
    write_atomically(folder / RESULT_FILE, json.dumps(row, indent=1, default=str))


OmegaConf.register_new_resolver("job_id", lambda *, _root_: job_id(_root_), replace=True)
