"""The report of a swept hyperparameter: its best values, and how they transfer."""

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.analysis import transfer
from mupl.analysis.columns import LOSS, OCTAVES, of_kind, what_is_unknown
from mupl.analysis.headlines import transfer_headlines
from mupl.analysis.readings import glossary, readings
from mupl.analysis.readout_norms import NORM
from mupl.figures import transfer as figures
from mupl.files import write_atomically
from mupl.report.common import (
    conclude,
    print_lines,
    read_results,
    save_pages,
    save_table,
    show,
    without_unknown,
)
from mupl.sweep.results import loss_unit, read_jobs

MAX_HEADLINES = 10  # printed
UNSHOWN = ["sizes", "drift_seeds", "edges", "loss_power"]  # said in sentences


class Losses(NamedTuple):
    """A table of results, and which of its columns are what."""

    results: pd.DataFrame
    metric: str  # the loss
    size: str | None  # None if there is one size
    x: str  # the hyperparameter
    unit: str = ""  # of the loss, such as "nats"


def hyperparameter_transfer(
    sweep_dir: Path, metric: str = "val_loss", where: str | None = None
) -> int:
    """Report on the swept hyperparameter (`mupl.analysis.transfer.swept_hyperparameter`).

    Writes `results.csv` and `best.csv`, prints the best values and, over two or more sizes, how
    they transfer (`transfer.json`). Leaves a figure such as `lr_transfer.png`, or pages of it.
    Returns 1 if a job or the figure failed.
    """
    results = read_results(sweep_dir, where)
    x = transfer.swept_hyperparameter(results)
    unit = loss_unit(read_jobs(sweep_dir, say=lambda line: None))
    losses = Losses(results, metric, transfer.swept_size(results), x, unit)
    trained = report_tables(losses, sweep_dir)
    code = conclude(results, sweep_dir)
    return max(code, plot(losses, sweep_dir)) if trained else code


def plot(losses: Losses, folder: Path) -> int:
    results, metric, size, x, unit = losses
    file = folder / f"{x.rpartition('.')[2]}_transfer.png"
    return save_pages(file, figures.plot_transfer_pages, results, metric, size or "width", x, unit)


def report_tables(losses: Losses, folder: Path) -> bool:
    """Write and print the tables; return whether any run gave a finite loss."""
    results, metric, size, x, _ = losses
    best = transfer.best(results, metric, x)
    if best.empty:
        return False
    headlines = transfer_headlines(results, metric, size, x)
    print_lines(headlines, folder / "best.csv", MAX_HEADLINES)
    save_table(best, folder / "best.csv")
    optima = pd.DataFrame()
    if size and (results.groupby(size)[x].nunique() > 1).any():
        optima = transfer.optima(results, metric, size, x)
    several = results[x].nunique() > 1
    _show_best(best, optima, losses, folder / "best.csv", several)
    if not optima.empty:
        _report_transfer(optima, losses, folder)
    return True


def _show_best(
    best: pd.DataFrame, optima: pd.DataFrame, losses: Losses, file: Path, several: bool
) -> None:
    """Print the best values, with the optima if there are any.

    Args:
        several: whether there was anything to choose from.
    """
    _, metric, _, x, _ = losses
    name = transfer.hyperparameter_name(x)
    if not several:
        show(best.drop(columns="at_edge"), f"{metric} (one {name}: no optimum to speak of)", file)
        return
    title = f"best {name}s by {metric}"
    if not is_numeric_dtype(best[x]):  # choices have no edge
        best = best.drop(columns="at_edge")
    elif not optima.empty:
        best = best.merge(_between_grid_points(optima, x), how="left")
        title += "; optimum: of the parabola through the best and its two neighbours"
    same = ["table"] if "table" in best and best["table"].nunique() == 1 else []
    show(without_unknown(best.drop(columns=same)), title, file)


def _between_grid_points(optima: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return the optimum of each curve under names that do not collide with the best value's."""
    numbers = [x, f"{x}_low", f"{x}_high", "loss", "curvature", "at_edge", "grid_regret"]
    last = [column for column in ("regret", NORM) if column in optima]
    keys = [key for key in optima if key not in (*numbers, *last)]
    names = {
        x: "optimum",
        f"{x}_low": "low",
        f"{x}_high": "high",
    }
    shown = optima[[*keys, *names, *last]]
    return shown.rename(columns=names)


def _report_transfer(optima: pd.DataFrame, losses: Losses, folder: Path) -> None:
    """Write `transfer.json`; print it and what it says."""
    results, metric, size, x, _ = losses
    assert size is not None
    table = transfer.transfer(results, metric, size, x, optima)
    plain = transfer.transfer_json(optima, table, metric, size, x)
    file = folder / "transfer.json"
    write_atomically(file, json.dumps(plain, indent=1))
    if table.empty:
        return
    unit = ": drift in octaves per doubling" if "drift" in table else ""
    title = f"transfer of the {transfer.hyperparameter_name(x)} along {size}{unit}"
    rounded = _rounded(table, optima["loss"].abs().max())
    keys = [key for key in transfer.curve_keys(results, x, metric) if key != size]
    same = set(keys) - set(transfer.differing_keys(table, keys))
    known = without_unknown(rounded)
    shown = known.drop(columns=[*UNSHOWN, *same], errors="ignore")
    if "drift_low" in known:
        shown = shown.drop(columns=["scatter_low", "scatter_high"], errors="ignore")
    show(shown, title, file)
    for reason in what_is_unknown(table.columns, known.columns):
        print(reason)
    print_lines([*readings(optima, table, keys, size, x), *glossary(size, x)], file)


def _rounded(table: pd.DataFrame, loss: float) -> pd.DataFrame:
    """Round to what a person reads: octaves to 0.001, and differences of losses to 1e-6 of `loss`.

    What is left of an exact zero, such as -3e-16, becomes 0.
    """
    table = table.copy()
    for column in of_kind(OCTAVES):
        if column in table:
            table[column] = table[column].round(3) + 0.0  # -0.0 becomes 0.0
    for column in of_kind(LOSS):
        if column in table:
            noticeable = table[column].isna() | (table[column].abs() > 1e-6 * loss)
            table[column] = table[column].where(noticeable, 0.0)
    return table
