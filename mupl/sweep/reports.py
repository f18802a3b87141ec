"""What a sweep may end with: the short names of reports."""

import pkgutil
from collections.abc import Callable
from pathlib import Path

from mupl.errors import ConfigError

# Makes tables and figures from a sweep's folder and a metric, and returns an exit code. Only
# reports that compare losses use the metric.
Report = Callable[[Path, str], int]

FOLDER = Path(__file__).parents[1] / "report"  # read, not imported, as it comes after this part
NO_REPORTS = ("common",)
REPORTS = tuple(
    module.name for module in pkgutil.iter_modules([str(FOLDER)]) if module.name not in NO_REPORTS
)


def get_report(name: str) -> Report:
    """Return the report of that short or dotted name.

    A report's module in `mupl.report` and the function there have its short name.

    Raises:
        ConfigError: if there is none, or it cannot be imported.
    """
    if name not in REPORTS and "." not in name:
        raise ConfigError(
            f"hydra.callbacks.sweep_report.report={name}: must be one of {', '.join(REPORTS)}, "
            "or the dotted name of a function (sweep folder, metric) -> exit code"
        )
    dotted = f"mupl.report.{name}.{name}" if name in REPORTS else name
    try:
        return pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"hydra.callbacks.sweep_report.report={name}: {error}") from error
