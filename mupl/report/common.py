"""What all reports do: gather the tables of jobs, say how the jobs ended, show and save."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from mupl.analysis.transfer import differing_columns, without_failed
from mupl.errors import ConfigError
from mupl.figures.look import DPI, FORMATS, Look, current_look, styled
from mupl.files import write_atomically
from mupl.identity import IDENTITY
from mupl.sweep.plan import asks_for, read_plan
from mupl.sweep.results import collect
from mupl.terminal import print_table

COORDINATES_FILE = "coordinates.csv"  # of each job, by mupl.stats.callback.CoordinateStats
MAX_ROWS = 40  # of a printed table, or lines about jobs: more are not read on a terminal


def read_results(sweep_dir: Path, where: str | None = None) -> pd.DataFrame:
    """Collect the results of a sweep's jobs, and write them all to `results.csv`.

    Args:
        where: of which rows to report, such as "lr < 2", as `DataFrame.query` takes it.

    Raises:
        ConfigError: if `where` cannot be understood, or leaves no row.
    """
    results = collect(sweep_dir)
    save_table(results, sweep_dir / "results.csv")
    return results if where is None else select(results, where)


def select(results: pd.DataFrame, where: str) -> pd.DataFrame:
    """Keep the rows for which an expression in the names of columns is true.

    >>> results = pd.DataFrame({"lr": [0.1, 4.0], "status": "completed"})
    >>> select(results, "lr < 2")["lr"].tolist()
    1 of 2 jobs left out, for which not lr < 2
    [0.1]
    """
    # words that only failed jobs have among numbers, such as lr=abc, are missing numbers
    numbers = without_failed(results).select_dtypes("number").columns
    comparable = results.assign(**results[numbers].apply(pd.to_numeric, errors="coerce"))
    try:
        kept = comparable.query(where)
    except Exception as error:  # of many kinds, by what is wrong
        columns = ", ".join(map(str, results))
        raise ConfigError(
            f"--where {where!r}: {' '.join(str(error).split())}; say a comparison of columns, such "
            f"as 'lr < 2', with `backticks` around names with dots; there are {columns}"
        ) from error
    if not isinstance(kept, pd.DataFrame) or kept.empty:
        raise ConfigError(f"--where {where!r}: is true of none of {len(results)} jobs")
    if len(kept) < len(results):
        left = len(results) - len(kept)
        print(f"{left} of {len(results)} jobs left out, for which not {where}")
    return results.loc[kept.index].reset_index(drop=True)


def gather(results: pd.DataFrame, sweep_dir: Path, file: str) -> pd.DataFrame:
    """Join the tables `file` of all jobs, with the columns that tell jobs apart.

    The learning rate is no such column: statistics at several rates are judged together.

    Raises:
        ConfigError: if no job left such a table.
    """
    swept = [key for key in differing_columns(without_failed(results)) if key not in IDENTITY]
    keys = [*IDENTITY, *swept]
    keys.remove("lr")
    tables = []
    for _, job in results.iterrows():
        path = sweep_dir / job["folder"] / file
        if path.exists():
            table = pd.read_csv(path)
            tables.append(table.assign(**job[keys]))
    if not tables:
        raise ConfigError(f"{sweep_dir}: no job left a {file}; see results.csv there for why")
    return pd.concat(tables, ignore_index=True)


def without_others_failures(results: pd.DataFrame, sweep_dir: Path) -> pd.DataFrame:
    """Leave out failed jobs of earlier commands, for which the sweep's last command does not ask.

    They say nothing about that command, such as lr=abc that was mended. Of a folder without a
    record of its command all jobs stay.
    """
    plan = read_plan(sweep_dir)
    if plan is None:
        return results
    return results[(results["status"] != "failed") | asks_for(plan, results)]


def conclude(results: pd.DataFrame, sweep_dir: Path) -> int:
    """Print how the jobs ended; return 1 if one failed that the last command asks for, else 0."""
    counts = results["status"].value_counts().sort_index()
    ends = [f"{count} {status}" for status, count in counts.items()]
    print(", ".join(ends), "in", sweep_dir)
    if counts.get("dropped"):
        share = results["steps"].sum() / results["max_steps"].sum()
        print(f"halving: {share:.0%} of the steps that all jobs would have made; see results.csv")
    failed = results[results["status"] == "failed"]
    asked = without_others_failures(failed, sweep_dir).index
    lines = []
    for number, job in failed.iterrows():
        text = f"job {job['folder']}: {job['error']}"
        if number in asked:
            lines.append(f"failed: {text}")
        else:
            lines.append(
                f"failed in an earlier command: {text}; it stays until you delete its folder"
            )
    print_lines(lines, sweep_dir / "results.csv")
    if len(asked):
        print("rerun=failed trains again what failed")
    return int(len(asked) > 0)


def print_lines(lines: Sequence[str], file: Path | None, most: int = MAX_ROWS) -> None:
    """Print the first of many lines, and which file has the rest if one has."""
    for line in lines[:most]:
        print(line)
    if len(lines) > most:
        print(f"and {len(lines) - most} more" + (f": {file}" if file else ""))


def show(table: pd.DataFrame, title: str, file: Path | None) -> None:
    """Print the first rows of a table, and which file has the rest if one has."""
    print_table(table.head(MAX_ROWS).to_dict("records"), title)
    if len(table) > MAX_ROWS:
        rest = f"; all in {file}" if file else ""
        print(f"first {MAX_ROWS} of {len(table)} rows{rest}")


def without_unknown(table: pd.DataFrame, keep: Collection[str] = ()) -> pd.DataFrame:
    """Leave out the columns of which no value is known, such as intervals over one seed.

    >>> list(without_unknown(pd.DataFrame({"slope": [0.5], "low": [float("nan")]})))
    ['slope']
    """
    unknown = [key for key in table if table[key].isna().all() and key not in keep]
    return table.drop(columns=unknown)


def save_table(table: pd.DataFrame, file: Path) -> None:
    """Write a table as CSV."""
    write_atomically(file, table.to_csv(index=False))


def save(figure: Figure, files: Iterable[Path]) -> None:
    """Write a figure, as the endings of the files say, in the size that is asked for; close it."""
    size = current_look().size
    if size:
        width, height = figure.get_size_inches()
        figure.set_size_inches(size[0], size[1] if len(size) > 1 else height * size[0] / width)
    for file in files:
        figure.savefig(file, dpi=DPI, bbox_inches="tight")
    plt.close(figure)


def save_figure(file: Path, plot: Callable[..., Figure], *arguments: Any, **options: Any) -> int:
    """Write the figure that `plot(*arguments, **options)` returns; return an exit code.

    A figure that fails is one line and the exit code 1, as tables are worth more than figures.
    """

    def pages() -> Iterator[Figure]:
        yield plot(*arguments, **options)

    return save_pages(file, pages)


def save_pages(
    file: Path, plot: Callable[..., Iterator[Figure]], *arguments: Any, **options: Any
) -> int:
    """Write figures as `save_figure` does; several are numbered, such as lr_transfer_1.png.

    Args:
        file: its ending is replaced by the formats that are asked for.
        plot: yields the figures.
        arguments, options: of `plot`.
    """
    for old in Look(FORMATS).files(file):
        for page in (old, *old.parent.glob(f"{old.stem}_[0-9]*{old.suffix}")):
            page.unlink(missing_ok=True)  # a page of an earlier report is none of this one
    look = current_look()
    pages: list[list[Path]] = []
    try:
        with styled():
            for figure in plot(*arguments, **options):
                page_files = look.files(file.with_stem(f"{file.stem}_{len(pages) + 1}"))
                save(figure, page_files)
                pages.append(page_files)
    except Exception as error:
        message = " ".join(str(error).split())
        print(f"no {file.name} (the tables are complete): {type(error).__name__}: {message}")
        return 1
    if len(pages) == 1:
        for page, whole in zip(pages[0], look.files(file), strict=True):
            page.replace(whole)
    else:
        first = pages[0][0]
        last = pages[-1][0]
        print(f"the figure has {len(pages)} pages: {first} to {last.name}")
    return 0
