"""The report of a coordinate check: does every tensor move with size as the rule table says?

Slopes are judged, not losses, so that the metric of this report is not used.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mupl.analysis import coordinates
from mupl.analysis.transfer import differing_keys, labels, setting_text
from mupl.errors import ConfigError
from mupl.figures import coordinates as figures
from mupl.figures.style import by_rank, with_written_names
from mupl.files import write_atomically
from mupl.identity import IDENTITY
from mupl.names import as_written
from mupl.report.common import (
    COORDINATES_FILE,
    conclude,
    gather,
    print_lines,
    read_results,
    save_figure,
    save_table,
    show,
    without_others_failures,
    without_unknown,
)

ALIGNMENT = "alignment exponents: 1 if updates and inputs point the same way, 1/2 if at random"
RELATIVE = "relative updates |dW| / |W| at the smallest and the largest width, and power of width"
EXPECTED = ("pass", "fail")


class Check(NamedTuple):
    """What a sweep of coordinate checks found."""

    results: pd.DataFrame  # a row a job
    rows: pd.DataFrame  # of all recorders; means over blocks in a check along depth
    verdict: pd.DataFrame
    alignment: pd.DataFrame  # of `mupl.analysis.coordinates.alignment_exponents`
    relative: pd.DataFrame  # of `mupl.analysis.coordinates.relative_updates`
    along: str  # the size that slopes are against: width or depth


def coordinate_check(
    sweep_dir: Path,
    metric: str = "val_loss",
    where: str | None = None,
    expect: Mapping[str, str] | None = None,
) -> int:
    """Write a verdict on each tensor, and a figure for each series of jobs; print what fails.

    The files are `coord_check.csv`, `verdict.json` and `coord_check*.png`.

    Args:
        expect: parametrization -> "pass" or "fail"; those that are not named are to pass.

    Returns:
        1 if a parametrization does not as expected, the training of a job failed or diverged, or a
        figure failed; not for tensors that are not judged, which are counted.

    Raises:
        ConfigError: if `expect` names a parametrization that is not in the check.
    """
    check = judge(sweep_dir, where)
    file = sweep_dir / "verdict.json"
    as_expected = _say_outcome(check.verdict, expect or {})
    show_verdict(check.verdict, check.along, file)
    show_alignment(check.alignment, file)
    show_relative_updates(check.relative, file)
    _print_series(check)
    print(f"coordinate check: {coordinates.count(check.verdict)}; {file}")
    no_figure = _plot_series(check, sweep_dir)
    completed = check.results["status"] == "completed"
    return int(not as_expected or not completed.all() or no_figure)


def _say_outcome(verdict: pd.DataFrame, expect: Mapping[str, str]) -> bool:
    """Say in a sentence how each parametrization does; return whether all do as expected."""
    names = verdict["parametrization"].unique().tolist()
    for name, word in expect.items():
        if name not in names or word not in EXPECTED:
            raise ConfigError(
                f"expect.{name}={word}: must be pass or fail, for one of {', '.join(names)}"
            )
    said = []
    unexpected = []
    for name in names:
        of_one = verdict[verdict["parametrization"] == name]
        failures = int((of_one["verdict"] == coordinates.FAIL).sum())
        label = as_written(name)
        if failures:
            said.append(f"{label} fails at {failures} of {len(of_one)}")
        else:
            passed = int((of_one["verdict"] == coordinates.PASS).sum())
            said.append(f"{label} passes {passed} of {len(of_one)}")
        wanted = expect.get(name, "pass")
        if wanted != ("fail" if failures else "pass"):
            unexpected.append(f"{label} was to {wanted} (expect.{name})")
    print("; ".join([f"{', '.join(said)} tensors, kinds and steps", *unexpected]))
    return not unexpected


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


def show_relative_updates(relative: pd.DataFrame, file: Path | None = None) -> None:
    """Print the relative updates of tensors after the last update that was recorded."""
    if relative.empty:
        return
    last = relative[relative["t"] == relative["t"].max()]
    show(without_unknown(last, keep=["slope"]), RELATIVE, file)


def judge(sweep_dir: Path, where: str | None = None) -> Check:
    """Write `results.csv`, all recorded rows (`coord_check.csv`) and `verdict.json`."""
    results = read_results(sweep_dir, where)
    conclude(results, sweep_dir)
    results = without_others_failures(results, sweep_dir)
    rows = gather(results, sweep_dir, COORDINATES_FILE)
    save_table(rows, sweep_dir / "coord_check.csv")
    if rows["seed"].nunique() < 2:
        print("one seed: slopes are uncertain; use five (seed=0,1,2,3,4)")
    along = coordinates.swept_axis(rows)
    if along == "depth":
        rows = coordinates.over_blocks(rows)
    verdict = coordinates.verdict(rows, along=along)
    alignment = relative = pd.DataFrame()
    if along == "width":
        alignment = coordinates.alignment_exponents(rows)
        relative = coordinates.relative_updates(rows)
    plain = coordinates.verdict_json(verdict)
    plain["alignment"] = coordinates.records(alignment)
    plain["relative_updates"] = coordinates.records(relative)
    write_atomically(sweep_dir / "verdict.json", json.dumps(plain, indent=1))
    return Check(results, rows, verdict, alignment, relative, along)


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
    parts = []
    for key, value in zip(keys, values, strict=True):
        text = setting_text(value)
        parts.append(text if key in IDENTITY else f"{key}={text}")
    return parts


def check_title(keys: Sequence[str], values: Sequence[Any]) -> str:
    """Return the title of the figure of one series of jobs.

    >>> check_title(["parametrization", "depth"], ["sp", 4])
    'SP, depth=4: the standard parametrization, not muP'
    """
    title = ", ".join(map(as_written, _labels(keys, values)))
    return f"{title}: the standard parametrization, not muP" if "sp" in values else title


def _plot_series(check: Check, sweep_dir: Path) -> int:
    """Save a figure for each series of jobs, named after it, and one with all side by side.

    Of a single series there is one figure.
    """
    keys = coordinates.check_keys(check.rows, check.along)
    several = check.rows[keys].drop_duplicates().shape[0] > 1
    failed = 0
    for values, rows in check.rows.groupby(keys, sort=False, dropna=False):
        parts = _labels(keys, values)
        title = check_title(keys, values)
        name = "coord_check.png"
        if several:
            name = f"coord_check_{'_'.join(parts).replace('/', '-').replace(' ', '_')}.png"
        plot = figures.plot_coordinates
        options = {"along": check.along, "verdict": _of_series(check.verdict, keys, values)}
        failed |= save_figure(sweep_dir / name, plot, rows, title, **options)
    if several:
        rows, verdict = with_check_labels(check.rows, check.verdict, check.along)
        file = sweep_dir / "coord_check.png"
        failed |= save_figure(file, figures.plot_checks, rows, verdict, along=check.along)
    return failed


def with_check_labels(
    rows: pd.DataFrame, verdict: pd.DataFrame, along: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return rows and verdict with a column `check`, which names the series, SP before muP."""
    rows = by_rank(rows)
    verdict = by_rank(verdict)
    names = differing_keys(rows, coordinates.check_keys(rows, along))
    rows = rows.assign(check=labels(with_written_names(rows[names])))
    return rows, verdict.assign(check=labels(with_written_names(verdict[names])))
