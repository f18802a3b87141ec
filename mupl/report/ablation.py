"""The report of an ablation: what does each rule of muP cure?

Slopes are judged, not losses, so that the metric of this report is not used.
"""

from pathlib import Path

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
    for table in (check.results, check.rows, check.verdict):
        without_folder = table["parametrization"].str.rpartition("/")[2]
        table["parametrization"] = without_folder
    if coordinates.has_failed(check.verdict):
        failures = coordinates.failures_by_series(check.verdict)
        title = f"worst slopes against {check.along} of what fails, by parametrization"
        show(failures, title, sweep_dir / "verdict.json")
    passed = True
    for stage, verdict in check.verdict.groupby("parametrization", sort=False):
        print(f"{stage}: {coordinates.count(verdict)}")
        completed = check.results.query("parametrization == @stage")["status"] == "completed"
        failed = coordinates.has_failed(verdict)
        passed = bool(completed.all() and not failed)  # of the last stage, in the end
    panels = {("output", name): label for name, label in OUTPUTS.items()}
    means = coordinates.over_blocks(check.rows)
    file = sweep_dir / "ablation.png"
    no_figure = save_figure(file, figures.plot_side_by_side, means, panels, along=check.along)
    return int(not passed or no_figure)
