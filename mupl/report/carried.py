"""The report of settings that a search found, carried to other sizes."""

from pathlib import Path

import pandas as pd

from mupl.analysis import carried as analysis
from mupl.analysis.transfer import without_failed
from mupl.figures.carried import plot_carried
from mupl.report.common import (
    conclude,
    read_results,
    save_figure,
    save_table,
    show,
    without_unknown,
)

METRICS_FILE = "metrics.csv"  # of each job, by its logger


def carried(sweep_dir: Path, metric: str = "val_loss", where: str | None = None) -> int:
    """Write `carried.csv` and `carried.png`, and print what settings gain over the plain one.

    Returns 1 if a job or the figure failed.

    Raises:
        ConfigError: if no job has the setting plain, or all have one size.
    """
    results = read_results(sweep_dir, where)
    code = conclude(results, sweep_dir)
    results = without_failed(results)
    validation = read_validation(results, sweep_dir, metric)
    table = analysis.carried(results, validation, metric)
    save_table(table, sweep_dir / "carried.csv")
    print("gain and speedup are over the plain setting at the best learning rate of each size,")
    print("low and high the ends of 95 % intervals over seeds")
    taken = table[table["rate_from"] == analysis.CARRIED]
    title = "settings at the learning rate that is best at the smallest size"
    short = without_unknown(taken.drop(columns=["rate_from", "seeds"]))
    show(short, title, sweep_dir / "carried.csv")
    failed = save_figure(sweep_dir / "carried.png", plot_carried, table)
    return max(code, failed)


def read_validation(results: pd.DataFrame, sweep_dir: Path, metric: str) -> pd.DataFrame:
    """Return the losses in the course of all runs: columns folder, steps and the metric."""
    columns = ["folder", "steps", metric]
    tables = [pd.DataFrame(columns=columns)]
    for folder in results["folder"]:
        file = sweep_dir / str(folder) / METRICS_FILE
        if not file.exists():
            continue
        metrics = pd.read_csv(file)
        if metric in metrics:
            logged = metrics.dropna(subset=[metric])
            tables.append(logged.assign(folder=folder, steps=logged["step"] + 1)[columns])
    return pd.concat(tables[1:] or tables, ignore_index=True)
