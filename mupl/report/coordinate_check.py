"""The reports of coordinate checks: does every tensor move with size as the rule table says?

Slopes are judged, not losses, so that the metric of these reports is not used.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mupl.analysis import coordinates
from mupl.figures import coordinates as figures
from mupl.files import write_atomically
from mupl.identity import IDENTITY
from mupl.report.common import COORDINATES_FILE, conclude, gather, save, save_table, show
from mupl.sweep.results import collect

# Rows of panels of an ablation: name (of the mean over blocks of a transformer) -> label
OUTPUTS = {
    "blocks.*.attention.logits": "attention logits",
    "blocks.*.attention_residual": "after attention",
    "blocks.*.mlp_residual": "after MLPs",
    "readout": "logits",
}


class Check(NamedTuple):
    """What a sweep of coordinate checks found."""

    results: pd.DataFrame  # a row a job
    rows: pd.DataFrame  # of all recorders; means over blocks in a check along depth
    verdict: pd.DataFrame
    along: str  # the size that slopes are against: width or depth


def coordinate_check(sweep_dir: Path, metric: str = "val_loss") -> int:
    """Write a verdict on each tensor, and a figure for each series of jobs; print what fails.

    The files are `coord_check.csv`, `verdict.json` and `coord_check*.png`. Returns 1 if a tensor
    fails, or the training of a job failed or diverged.
    """
    check = _judge(sweep_dir)
    _draw_series(check, sweep_dir)
    passed = check.verdict["passed"]
    if not passed.all():
        failures = check.verdict[~passed].drop(columns="passed")
        unknown = [key for key in failures if failures[key].isna().all() and key != "slope"]
        failures = failures.drop(columns=unknown)  # such as intervals over one seed
        show(failures, f"failed: slopes of log2(mean |x|) against log2({check.along})")
    count = f"{passed.sum()} of {len(passed)} tensors, kinds and steps pass"
    print(f"coordinate check: {count}; {sweep_dir / 'verdict.json'}")
    completed = check.results["status"] == "completed"
    return int(not passed.all() or not completed.all())


def ablation(sweep_dir: Path, metric: str = "val_loss") -> int:
    """Compare coordinate checks of parametrizations of which each has one more rule.

    Writes what `coordinate_check` does, with `ablation.png` for its figures. Returns 1 if the last
    parametrization (by name), which has all rules, fails.
    """
    check = _judge(sweep_dir)
    for table in (check.results, check.rows, check.verdict):
        without_folder = table["parametrization"].str.rpartition("/")[2]
        table["parametrization"] = without_folder
    panels = {("output", name): label for name, label in OUTPUTS.items()}
    means = coordinates.over_blocks(check.rows)
    save(figures.plot_side_by_side(means, panels, along=check.along), sweep_dir / "ablation.png")
    if not check.verdict["passed"].all():
        failures = coordinates.failures_by_series(check.verdict)
        show(failures, f"worst slopes against {check.along} of what fails, by parametrization")
    passed = True
    for stage, verdict in check.verdict.groupby("parametrization", sort=False):
        print(f"{stage}: {verdict['passed'].sum()} of {len(verdict)} tensors, kinds and steps pass")
        completed = check.results.query("parametrization == @stage")["status"] == "completed"
        passed = bool(verdict["passed"].all() and completed.all())  # of the last stage, in the end
    return int(not passed)


def _judge(sweep_dir: Path) -> Check:
    """Write `results.csv`, all recorded rows (`coord_check.csv`) and `verdict.json`."""
    results = collect(sweep_dir)
    conclude(results, sweep_dir)
    rows = gather(results, sweep_dir, COORDINATES_FILE)
    save_table(rows, sweep_dir / "coord_check.csv")
    if rows["seed"].nunique() < 2:
        print("one seed: slopes are uncertain; use five (seed=0,1,2,3,4)")
    along = coordinates.swept_axis(rows)
    if along == "depth":
        rows = coordinates.over_blocks(rows)
    verdict = coordinates.verdict(rows, along=along)
    plain = coordinates.verdict_json(verdict)
    write_atomically(sweep_dir / "verdict.json", json.dumps(plain, indent=1))
    return Check(results, rows, verdict, along)


def _draw_series(check: Check, sweep_dir: Path) -> None:
    """Save a figure for each series of jobs, named after it if there are several."""
    keys = coordinates.check_keys(check.rows, check.along)
    several = check.rows[keys].drop_duplicates().shape[0] > 1
    for values, rows in check.rows.groupby(keys, sort=False):
        labels = []
        for key, value in zip(keys, values, strict=True):
            labels.append(str(value) if key in IDENTITY else f"{key}={value}")
        title = ", ".join(labels)
        if "sp" in values:
            title += ": the standard parametrization, not muP"
        name = "coord_check.png"
        if several:
            name = f"coord_check_{'_'.join(labels).replace('/', '-')}.png"
        save(figures.plot_coordinates(rows, title, along=check.along), sweep_dir / name)
