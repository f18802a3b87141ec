"""The report of unit-scaling checks: have all tensors RMS 1 before the first update?"""

from pathlib import Path

from mupl.analysis import unit_scale as analysis
from mupl.figures import unit_scale as figures
from mupl.report.common import (
    COORDINATES_FILE,
    conclude,
    gather,
    read_results,
    save_figure,
    save_table,
    show,
)


def unit_scale(sweep_dir: Path, metric: str = "val_loss", where: str | None = None) -> int:
    """Write `unit_scale.csv` and `unit_scale.png`; print the tensors whose RMS is outside the band.

    Returns 1 if there are any, or a job or the figure failed. The metric is not used.
    """
    results = read_results(sweep_dir, where)
    code = conclude(results, sweep_dir)
    table = analysis.unit_scale_verdict(gather(results, sweep_dir, COORDINATES_FILE))
    file = sweep_dir / "unit_scale.csv"
    save_table(table, file)
    passed = table["passed"]
    if not passed.all():
        failures = table[~passed].drop(columns="passed")
        show(failures, f"failed: RMS over what is expected outside {analysis.BAND}", file)
        code = 1
    print(f"unit scale: {passed.sum()} of {len(passed)} tensors pass; {file}")
    failed = save_figure(sweep_dir / "unit_scale.png", figures.plot_unit_scale, table)
    return max(code, failed)
