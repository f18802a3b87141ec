"""Learning-rate adjustment groups: the way in which Cerebras' models say which learning rates scale."""

from collections.abc import Mapping, Sequence
from typing import Any

from mupl.errors import ConfigError


def lr_overrides(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str | float]]:
    """Overrides of a parametrization from named groups `{name: {param_filter: glob or globs, scale: cell}}`.

    The tensors that a filter matches get `lr * scale` instead of what the table says, and under decoupled weight decay
    `wd / scale`. `scale` is a number or a cell of a table; by default `1/m_in`.

    Raises:
        ConfigError: if a group has no `param_filter` or has other keys.
    """
    overrides: dict[str, dict[str, str | float]] = {}
    for name, group in groups.items():
        if "param_filter" not in group or set(group) - {"param_filter", "scale"}:
            raise ConfigError(
                f"parametrization.lr_adjustment_groups.{name}: takes param_filter and scale"
            )
        filters = group["param_filter"]
        for glob in (
            [filters] if isinstance(filters, str) or not isinstance(filters, Sequence) else filters
        ):
            overrides[str(glob)] = {"lr": group.get("scale", "1/m_in")}
    return overrides
