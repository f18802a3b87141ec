"""Bad input, found before anything is loaded or trained."""

import math
from typing import Any

from omegaconf import DictConfig, ListConfig

from mupl.errors import ConfigError

METRICS = ("val_loss", "train_loss")
_WHOLE = {"depth": 1, "batch_size": 1, "max_steps": 1, "seed": 0}  # key: smallest value


def check(cfg: DictConfig) -> None:
    """Raises ConfigError, naming the key and what would be right, at the first top-level value that cannot be."""
    for key in ("width", "base_width"):
        entries = list(cfg[key]) if isinstance(cfg[key], ListConfig) else [cfg[key]]
        if not entries or not all(_is_whole(entry, 1) for entry in entries):
            raise ConfigError(f"{key}={cfg[key]}: must be a whole number >= 1, or a list of them")
    for key, least in _WHOLE.items():
        if not _is_whole(cfg[key], least):
            raise ConfigError(f"{key}={cfg[key]}: must be a whole number >= {least}")
    for key in ("lr", "eps", "weight_decay"):
        if (
            isinstance(cfg[key], bool)
            or not isinstance(cfg[key], int | float)
            or not math.isfinite(cfg[key])
        ):
            raise ConfigError(f"{key}={cfg[key]}: must be a finite number")
    for key in ("base_depth", "base_batch_size", "base_steps"):
        if cfg[key] is not None and not _is_whole(cfg[key], 1):
            raise ConfigError(f"{key}={cfg[key]}: must be a whole number >= 1, or null")
    if cfg.metric not in METRICS:
        raise ConfigError(f"metric={cfg.metric}: must be one of {', '.join(METRICS)}")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
