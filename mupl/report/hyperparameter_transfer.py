"""The report of a swept hyperparameter: its best values, and how they transfer."""

import json
from pathlib import Path

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
from mupl.report.losses import Losses
from mupl.sweep.results import loss_unit, read_jobs

MAX_HEADLINES = 10  # printed
UNSHOWN = ["sizes", "drift_seeds", "edges", "loss_power"]  # said in sentences


def hyperparameter_transfer(
    sweep_dir: Path, metric: str = "val_loss", where: str | None = None
) -> int:
    """Report on the swept hyperparameter (`mupl.analysis.transfer.swept_hyperparameter`).

    Writes `results.csv` and `best.csv`, prints the best values and, over two or more sizes, how
    they transfer (`transfer.json`). Leaves a figure such as `lr_transfer.png`, or pages of it.
    Returns 1 if a job or the figure failed.
    """
    results = read_results(sweep_dir, where)
    unit = loss_unit(read_jobs(sweep_dir, say=lambda line: None))
    losses = Losses.of_sweep(results, metric, unit)
    trained = report_tables(losses, sweep_dir)
    code = conclude(results, sweep_dir)
    return max(code, plot(losses, sweep_dir)) if trained else code


def plot(losses: Losses, folder: Path) -> int:
    file = folder / f"{losses.x.rpartition('.')[2]}_transfer.png"
    return save_pages(
        file,
        figures.plot_transfer_pages,
        losses.results,
        losses.metric,
        losses.size_or_width,
        losses.x,
        losses.unit,
    )


def report_tables(losses: Losses, folder: Path) -> bool:
    """Write and print the tables; return whether any run gave a finite loss."""
    file = folder / "best.csv"
    if losses.best.empty:
        return False
    headlines = transfer_headlines(losses.results, losses.metric, losses.size, losses.x)
    print_lines(headlines, file, MAX_HEADLINES)
    save_table(losses.best, file)
    _show_best(losses, file)
    if not losses.optima.empty:
        _report_transfer(losses, folder / "transfer.json")
    return True


def _show_best(losses: Losses, file: Path) -> None:
    """Print the best values, with the optima if there are any."""
    best = losses.best
    x = losses.x
    name = transfer.hyperparameter_name(x)
    if losses.results[x].nunique() < 2:  # there was nothing to choose from
        title = f"{losses.metric} (one {name}: no optimum to speak of)"
        show(best.drop(columns="at_edge"), title, file)
        return
    title = f"best {name}s by {losses.metric}"
    if not is_numeric_dtype(best[x]):  # choices have no edge
        best = best.drop(columns="at_edge")
    elif not losses.optima.empty:
        best = best.merge(_between_grid_points(losses.optima, x), how="left")
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


def _report_transfer(losses: Losses, file: Path) -> None:
    """Write `transfer.json`; print it and what it says."""
    optima = losses.optima
    table = losses.transfer
    size = losses.size_or_width
    x = losses.x
    plain = transfer.transfer_json(optima, table, losses.metric, size, x)
    write_atomically(file, json.dumps(plain, indent=1))
    if table.empty:
        return
    unit = ": drift in octaves per doubling" if "drift" in table else ""
    title = f"transfer of the {transfer.hyperparameter_name(x)} along {size}{unit}"
    rounded = _rounded(table, optima["loss"].abs().max())
    keys = losses.series_keys
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
