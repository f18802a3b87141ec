"""Configs of the jobs of a sweep, and of the target that is like them."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from mupl.errors import ConfigError
from mupl.identity import RESULT_FILE, hydra_of
from mupl.sweep.plan import read_plan
from mupl.training.overrides import CONF
from mupl.tuning.ladder import SIZES


def sources(plan: DictConfig) -> list[str]:
    """List the places, beside mupl's own, where a sweep's command looked for configs."""
    found = []
    for source in plan.hydra.runtime.config_sources:
        path = str(source.path)
        if source.schema == "file" and path and Path(path).resolve() != CONF.resolve():
            found.append(f"file://{path}")
    return found


def job_config(folder: Path) -> DictConfig:
    """Read the config that a job's command composed, not resolved.

    Raises:
        ConfigError: if the job left none.
    """
    file = folder / ".hydra/config.yaml"
    if not file.exists():
        raise ConfigError(f"{file}: is missing; it is left where hydra.output_subdir=.hydra")
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def plan_of(sweep_dir: Path, job_folder: Path) -> DictConfig:
    """Return the config of a sweep's last command, or of a job where a sweeper leaves none."""
    plan = read_plan(sweep_dir)
    if plan is not None:
        return plan
    hydra = OmegaConf.load(job_folder / ".hydra/hydra.yaml")
    config = OmegaConf.merge(job_config(job_folder), hydra)
    assert isinstance(config, DictConfig)
    return config


def choices_of(folder: Path) -> dict[str, Any]:
    """Return the chosen config groups of a job, by group."""
    chosen: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text())["choices"]
    return chosen


def with_values(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Return a copy of a config with other values at dotted keys."""
    changed = copy.deepcopy(config)
    with open_dict(changed):
        for key, value in values.items():
            OmegaConf.update(changed, key, value, merge=False, force_add=True)
    return changed


def target_sizes(config: DictConfig, target: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of the target: those that are said, and else the proxies'.

    Args:
        config: of any proxy.
        target: of the sweep's config.
    """
    sizes = {}
    for key in SIZES:
        said = target.get(key)
        sizes[key] = config[key] if said is None else said
    return sizes


def resolved(config: DictConfig) -> DictConfig:
    """Return a copy without references, and without what only a command line has.

    Left out are callbacks and loggers, which name folders of a run.
    """
    plain = with_values(config, {"callbacks": {}, "logger": {}})
    with hydra_of(plain):
        OmegaConf.resolve(plain)
    return plain
