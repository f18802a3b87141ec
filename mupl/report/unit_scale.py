"""The report of unit-scaling checks: have all tensors RMS 1 before the first update?"""

from pathlib import Path

from mupl.analysis import unit_scale as analysis
from mupl.figures import unit_scale as figures
from mupl.report.common import COORDINATES_FILE, conclude, gather, save, save_table, show
from mupl.sweep.results import collect


def unit_scale(sweep_dir: Path, metric: str = "val_loss") -> int:
    """Write `unit_scale.csv` and `unit_scale.png`; print the tensors whose RMS is outside the band.

    Returns 1 if there are any, or a job failed. The metric is not used.
    """
    results = collect(sweep_dir)
    code = conclude(results, sweep_dir)
    table = analysis.unit_scale_verdict(gather(results, sweep_dir, COORDINATES_FILE))
    save_table(table, sweep_dir / "unit_scale.csv")
    save(figures.plot_unit_scale(table), sweep_dir / "unit_scale.png")
    passed = table["passed"]
    if not passed.all():
        failures = table[~passed].drop(columns="passed")
        show(failures, f"failed: RMS over what is expected outside {analysis.BAND}")
        code = 1
    count = f"{passed.sum()} of {len(passed)} tensors pass"
    print(f"unit scale: {count}; {sweep_dir / 'unit_scale.csv'}")
    return code
