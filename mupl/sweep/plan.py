"""What a sweep's command asked for, by Hydra's own record of it."""

import math
import shlex
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mupl.identity import swept_keys

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


def report_name(plan: DictConfig | None) -> str | None:
    """Return the name of the report that the sweep ends with; None if that is not known."""
    return OmegaConf.select(plan, "hydra.callbacks.sweep_report.report") if plan else None


def figure_options(config: DictConfig | None) -> dict[str, Any]:
    """Return how the config asks for figures; {} if that is not known."""
    options = OmegaConf.select(config, "figure") if config else None
    plain = OmegaConf.to_container(options) if OmegaConf.is_config(options) else {}
    return {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}
