"""What a sweep's command asked for, by Hydra's own record of it."""

import math
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, QuotedString
from omegaconf import DictConfig, OmegaConf

from mupl.identity import parsed_overrides, swept_keys, value_text

PLAN_FILE = "multirun.yaml"


def read_plan(sweep_dir: Path) -> DictConfig | None:
    """Read the config of a sweep's last command; None if there is no record of one."""
    file = sweep_dir / PLAN_FILE
    if not file.exists():
        return None
    plan = OmegaConf.load(file)
    assert isinstance(plan, DictConfig)
    return plan


def command(plan: DictConfig) -> str:
    """Return the command, as it may be given again."""
    given = plan.hydra.overrides
    overrides = [text for text in [*given.hydra, *given.task] if text != "hydra.mode=MULTIRUN"]
    return shlex.join(["python", "train.py", "-m", *overrides])


def job_count(plan: DictConfig) -> int:
    """Return how many jobs the command asks for; 0 where its sweeper decides as it goes."""
    if not str(plan.hydra.sweeper._target_).endswith(".BasicSweeper"):
        return 0
    return math.prod(swept_keys(plan).values())


def asks_for(plan: DictConfig, jobs: pd.DataFrame) -> pd.Series:
    """Say of each job whether the command asks for it: it has a value of every key that is set.

    Width and seed are set by every command. Keys whose values are known only when a job is composed
    (drawn ones, globs, those that follow from others) fit any job.

    Args:
        plan: the config of the command.
        jobs: rows of the table of results.
    """
    said = {key: [plan[key]] for key in ("width", "seed") if key in plan}
    said |= {key: _values(override) for key, override in parsed_overrides(plan)}
    asked = pd.Series(True, jobs.index)
    for key, values in said.items():
        texts = list(map(_text, values))
        is_known = bool(texts) and not any("${" in text for text in texts)
        if is_known and key in jobs:
            asked &= jobs[key].map(_text).isin(texts)
    return asked


def _values(override: Override) -> list[Any]:
    """Return the values of a key that are listed; [] where it is drawn, globbed or deleted."""
    value = override.value()
    if override.is_delete() or isinstance(value, IntervalSweep | Glob):
        return []
    return list(override.sweep_iterator()) if override.is_sweep_override() else [value]


def _text(value: Any) -> str:
    """Write a value of a command or of a table in the one way of all that mean the same."""
    if isinstance(value, QuotedString):
        return value.text
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, list | dict):
        return str(value)  # as the table has it
    return value_text(None if pd.isna(value) else value)


def report_name(plan: DictConfig | None) -> str | None:
    """Return the name of the report that the sweep ends with; None if that is not known."""
    return OmegaConf.select(plan, "hydra.callbacks.sweep_report.report") if plan else None


def figure_options(config: DictConfig | None) -> dict[str, Any]:
    """Return how the config asks for figures; {} if that is not known."""
    options = OmegaConf.select(config, "figure") if config else None
    plain = OmegaConf.to_container(options) if OmegaConf.is_config(options) else {}
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}
