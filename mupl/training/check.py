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
        _check_width(key, cfg[key])
    for key, least in _WHOLE.items():
        if not _is_whole(cfg[key]) or cfg[key] < least:
            raise ConfigError(f"{key}={cfg[key]}: must be a whole number >= {least}")
    for key in ("lr", "eps", "weight_decay"):
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], int | float) or not math.isfinite(cfg[key]):
            raise ConfigError(f"{key}={cfg[key]}: must be a finite number")
    for key in ("base_depth", "base_batch_size", "base_steps"):
        if cfg[key] is not None and (not _is_whole(cfg[key]) or cfg[key] < 1):
            raise ConfigError(f"{key}={cfg[key]}: must be a whole number >= 1, or null")
    if cfg.metric not in METRICS:
        raise ConfigError(f"metric={cfg.metric}: must be one of {', '.join(METRICS)}")


def _check_width(key: str, width: Any) -> None:
    entries = list(width) if isinstance(width, ListConfig) else [width]
    if not entries or not all(_is_whole(entry) and entry >= 1 for entry in entries):
        raise ConfigError(f"{key}={width}: must be a whole number >= 1, or a list of them")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
