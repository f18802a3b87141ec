"""What a sweep may end with: the short names of reports."""

import pkgutil
from collections.abc import Callable
from pathlib import Path

from mupl.errors import ConfigError

# Makes tables and figures from a sweep's folder and a metric, and returns an exit code. Only
# reports that compare losses use the metric.
Report = Callable[[Path, str], int]

# Functions by name, as the part of the package that holds them comes after this one
REPORTS = {
    "hyperparameter_transfer": "mupl.report.transfer.hyperparameter_transfer",
    "coordinate_check": "mupl.report.coordinates.coordinate_check",
    "ablation": "mupl.report.coordinates.ablation",
    "update_norms": "mupl.report.norms.update_norms",
    "unit_scale": "mupl.report.unit_scale.unit_scale",
}


def get_report(name: str) -> Report:
    """Return the report of that short or dotted name.

    Raises:
        ConfigError: if there is none, or it cannot be imported.
    """
    if name not in REPORTS and "." not in name:
        raise ConfigError(
            f"hydra.callbacks.sweep_report.report={name}: must be one of {', '.join(REPORTS)}, "
            "or the dotted name of a function (sweep folder, metric) -> exit code"
        )
    try:
        return pkgutil.resolve_name(REPORTS.get(name, name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"hydra.callbacks.sweep_report.report={name}: {error}") from error
