"""What a sweep may end with: the short names of reports."""

import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mupl.errors import ConfigError

# Makes tables and figures from a sweep's folder and a metric, and returns an exit code. Only
# reports that compare losses use the metric. It may take `where`, which rows of results are meant
# (`mupl.report.common.read_results`), and `expect`, what a check is to find.
Report = Callable[..., int]

FOLDER = Path(__file__).parents[1] / "report"  # read, not imported, as it comes after this part
NO_REPORTS = ("common", "losses", "page", "tables")
REPORTS = tuple(
    module.name for module in pkgutil.iter_modules([str(FOLDER)]) if module.name not in NO_REPORTS
)


def run_report(name: str, sweep_dir: Path, metric: str, **options: Any) -> int:
    """Make the report of that name, and return its exit code.

    Args:
        options: such as `where` and `expect`, for reports that take them; None is not said.

    Raises:
        ConfigError: if there is no such report, or it does not take one of the options.
    """
    report = get_report(name)
    said = {key: value for key, value in options.items() if value}
    for key in said:
        if key not in inspect.signature(report).parameters:
            raise ConfigError(f"{key}: the report {name} does not take it")
    return report(sweep_dir, metric, **said)


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


def write_page(write: str, *arguments: Any) -> None:
    """Write the page of a report; if that fails, say so in a line, as the tables are there.

    Args:
        write: the function of `mupl.report.page` that writes it and returns its path.
        arguments: of the function.
    """
    try:
        path = pkgutil.resolve_name(f"mupl.report.page.{write}")(*arguments)
        print(f"report: {path}", flush=True)
    except Exception as error:
        print(f"no report.html (the tables are complete): {_sentence(error)}", flush=True)


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("mupl"):
        return f"it needs the package {error.name}: pip install 'mupl[train]'"
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}"
