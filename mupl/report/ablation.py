"""The report of an ablation: what does each rule of muP cure?

Slopes are judged, not losses, so that the metric of this report is not used.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mupl.analysis import coordinates
from mupl.figures import coordinates as figures
from mupl.report.common import save_figure, show
from mupl.report.coordinate_check import judge

# Rows of panels: name (of the mean over blocks of a transformer) -> label
OUTPUTS = {
    "blocks.*.attention.logits": "attention logits",
    "blocks.*.attention_residual": "after attention",
    "blocks.*.mlp_residual": "after MLPs",
    "readout": "logits",
}


def ablation(sweep_dir: Path, metric: str = "val_loss", where: str | None = None) -> int:
    """Compare coordinate checks of parametrizations of which each has one more rule.

    Writes what `coordinate_check` does, with `ablation.png` for its figures. Returns 1 if the last
    parametrization (by name), which has all rules, fails, or the figure does.
    """
    check = judge(sweep_dir, where)
    results, rows, verdicts = map(without_folders, (check.results, check.rows, check.verdict))
    if coordinates.has_failed(verdicts):
        failures = coordinates.failures_by_series(verdicts)
        title = f"worst slopes against {check.along} of what fails, by parametrization"
        show(failures, title, sweep_dir / "verdict.json")
    passed = True
    for stage, verdict in verdicts.groupby("parametrization", sort=False):
        print(f"{stage}: {coordinates.count(verdict)}")
        completed = results.query("parametrization == @stage")["status"] == "completed"
        failed = coordinates.has_failed(verdict)
        passed = bool(completed.all() and not failed)  # of the last stage, in the end
    file = sweep_dir / "ablation.png"
    no_figure = save_figure(file, plot, rows, check.along)
    return int(not passed or no_figure)


def without_folders(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with parametrizations by their names alone.

    >>> without_folders(pd.DataFrame({"parametrization": ["ablation/0_sp", "mup"]}))
      parametrization
    0            0_sp
    1             mup
    """
    return table.assign(parametrization=table["parametrization"].str.rpartition("/")[2])


def plot(rows: pd.DataFrame, along: str) -> Figure:
    """Plot attention logits, stream and logits against size: a column for each parametrization."""
    panels = {("output", name): label for name, label in OUTPUTS.items()}
    return figures.plot_side_by_side(coordinates.over_blocks(rows), panels, along=along)
