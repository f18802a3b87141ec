"""The report of a coordinate check: does every tensor move with size as the rule table says?

Slopes are judged, not losses, so that the metric of this report is not used.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mupl.analysis import coordinates
from mupl.figures import coordinates as figures
from mupl.files import write_atomically
from mupl.identity import IDENTITY
from mupl.report.common import (
    COORDINATES_FILE,
    conclude,
    gather,
    print_lines,
    read_results,
    save_figure,
    save_table,
    show,
    without_unknown,
)

ALIGNMENT = "alignment exponents: 1 if updates and inputs point the same way, 1/2 if at random"


class Check(NamedTuple):
    """What a sweep of coordinate checks found."""

    results: pd.DataFrame  # a row a job
    rows: pd.DataFrame  # of all recorders; means over blocks in a check along depth
    verdict: pd.DataFrame
    alignment: pd.DataFrame  # of `mupl.analysis.coordinates.alignment_exponents`
    along: str  # the size that slopes are against: width or depth


def coordinate_check(sweep_dir: Path, metric: str = "val_loss") -> int:
    """Write a verdict on each tensor, and a figure for each series of jobs; print what fails.

    The files are `coord_check.csv`, `verdict.json` and `coord_check*.png`. Returns 1 if a tensor
    fails, the training of a job failed or diverged, or a figure failed; not for tensors that are
    not judged, which are counted.
    """
    check = judge(sweep_dir)
    file = sweep_dir / "verdict.json"
    show_verdict(check.verdict, check.along, file)
    show_alignment(check.alignment, file)
    _print_series(check)
    print(f"coordinate check: {coordinates.count(check.verdict)}; {file}")
    no_figure = _plot_series(check, sweep_dir)
    completed = check.results["status"] == "completed"
    failed = coordinates.has_failed(check.verdict)
    return int(failed or not completed.all() or no_figure)


def show_verdict(verdict: pd.DataFrame, along: str, file: Path | None = None) -> None:
    """Print what fails and what is not judged, and a sentence for each that says why.

    Args:
        verdict: of `mupl.analysis.coordinates.verdict`.
        along: the size that slopes are against: "width" or "depth".
        file: which has the whole verdict.
    """
    title = f"slopes of log2(mean |x|) against log2({along})"
    if (verdict["statistic"] != "l1").any():
        title = f"slopes of log2(statistic) against log2({along})"
    for word in (coordinates.FAIL, coordinates.NOT_JUDGED):
        found = verdict[verdict["verdict"] == word]
        if found.empty:
            continue
        numbers = without_unknown(found.drop(columns=["verdict", "reason"]), keep=["slope"])
        if (numbers["statistic"] == "l1").all():
            numbers = numbers.drop(columns="statistic")
        show(numbers, f"{word}: {title}", file)
        print_lines(coordinates.sentences(found), file)


def show_alignment(exponents: pd.DataFrame, file: Path | None = None) -> None:
    """Print the alignment exponents of layers: a row a layer, a column a step."""
    if exponents.empty:
        return
    keys = [key for key in exponents if key not in ("t", "slope", "ci_low", "ci_high")]
    table = exponents.pivot_table("slope", keys, "t", sort=False, dropna=False).reset_index()
    columns = {t: f"t = {t}" for t in exponents["t"].unique()}
    show(table.rename(columns=columns).round(2), ALIGNMENT, file)


def judge(sweep_dir: Path) -> Check:
    """Write `results.csv`, all recorded rows (`coord_check.csv`) and `verdict.json`."""
    results = read_results(sweep_dir)
    conclude(results, sweep_dir)
    rows = gather(results, sweep_dir, COORDINATES_FILE)
    save_table(rows, sweep_dir / "coord_check.csv")
    if rows["seed"].nunique() < 2:
        print("one seed: slopes are uncertain; use five (seed=0,1,2,3,4)")
    along = coordinates.swept_axis(rows)
    if along == "depth":
        rows = coordinates.over_blocks(rows)
    verdict = coordinates.verdict(rows, along=along)
    alignment = pd.DataFrame()
    if along == "width":
        alignment = coordinates.alignment_exponents(rows)
    plain = coordinates.verdict_json(verdict)
    plain["alignment"] = coordinates.records(alignment)
    write_atomically(sweep_dir / "verdict.json", json.dumps(plain, indent=1))
    return Check(results, rows, verdict, alignment, along)


def _print_series(check: Check) -> None:
    """Print how many pass in each series of jobs, if there are several."""
    keys = coordinates.check_keys(check.rows, check.along)
    several = len(check.verdict[keys].drop_duplicates()) > 1
    if not several:
        return
    for values, verdict in check.verdict.groupby(keys, sort=False, dropna=False):
        print(f"{', '.join(_labels(keys, values))}: {coordinates.count(verdict)}")


def _of_series(verdict: pd.DataFrame, keys: Sequence[str], values: Sequence[Any]) -> pd.DataFrame:
    """Select the verdict on one series of jobs."""
    chosen = pd.Series(True, verdict.index)
    for key, value in zip(keys, values, strict=True):
        chosen &= verdict[key].isna() if pd.isna(value) else verdict[key] == value
    return verdict[chosen]


def _labels(keys: Sequence[str], values: Sequence[Any]) -> list[str]:
    """Name a series of jobs by what tells it from others, such as "mup" and "depth=4"."""
    labels = []
    for key, value in zip(keys, values, strict=True):
        labels.append(str(value) if key in IDENTITY else f"{key}={value}")
    return labels


def _plot_series(check: Check, sweep_dir: Path) -> int:
    """Save a figure for each series of jobs, named after it if there are several."""
    keys = coordinates.check_keys(check.rows, check.along)
    several = check.rows[keys].drop_duplicates().shape[0] > 1
    failed = 0
    for values, rows in check.rows.groupby(keys, sort=False, dropna=False):
        labels = _labels(keys, values)
        title = ", ".join(labels)
        if "sp" in values:
            title += ": the standard parametrization, not muP"
        name = "coord_check.png"
        if several:
            name = f"coord_check_{'_'.join(labels).replace('/', '-')}.png"
        plot = figures.plot_coordinates
        options = {"along": check.along, "verdict": _of_series(check.verdict, keys, values)}
        failed |= save_figure(sweep_dir / name, plot, rows, title, **options)
    return failed
