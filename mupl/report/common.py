"""What all reports do: gather the tables of jobs, say how the jobs ended, show and save."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from mupl.analysis.transfer import differing_columns
from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.identity import IDENTITY
from mupl.terminal import print_table

COORDINATES_FILE = "coordinates.csv"  # of each job, by mupl.stats.callback.CoordinateStats


def gather(results: pd.DataFrame, sweep_dir: Path, file: str) -> pd.DataFrame:
    """Join the tables `file` of all jobs, with the columns that tell jobs apart.

    The learning rate is no such column: statistics at several rates are judged together.

    Raises:
        ConfigError: if no job left such a table.
    """
    swept = [key for key in differing_columns(results) if key not in IDENTITY]
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


def conclude(results: pd.DataFrame, sweep_dir: Path) -> int:
    """Write `results.csv` and print how the jobs ended; return 1 if one failed, else 0."""
    save_table(results, sweep_dir / "results.csv")
    counts = results["status"].value_counts().sort_index()
    ends = [f"{count} {status}" for status, count in counts.items()]
    print(", ".join(ends), "in", sweep_dir)
    failed = results[results["status"] == "failed"]
    for _, job in failed.iterrows():
        print(f"failed: job {job['folder']}: {job['error']}")
    return int(len(failed) > 0)


def show(table: pd.DataFrame, title: str) -> None:
    """Print a table on the terminal."""
    print_table(table.to_dict("records"), title)


def save_table(table: pd.DataFrame, file: Path) -> None:
    """Write a table as CSV."""
    write_atomically(file, table.to_csv(index=False))


def save(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, and close it."""
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
