"""The report of a swept hyperparameter: its best values, and how they transfer."""

import json
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from mupl.analysis import transfer
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

OCTAVES = ["drift", "drift_low", "drift_high", "fit_error", "robustness"]
LOSSES = ["worst_regret", "asymptotic_penalty"]
# What is said in place of a column of which no value is known
REASONS = {
    "drift_low": "too few seeds for an interval",
    "robustness": "fewer than two optima between finite losses: no robustness",
    "asymptotic_loss": "fewer than four sizes: no asymptotic loss",
}


def hyperparameter_transfer(sweep_dir: Path, metric: str = "val_loss") -> int:
    """Report on the swept one of `mupl.analysis.transfer.HYPERPARAMETERS`.

    Writes `results.csv` and `best.csv`, prints the best values and, over two or more sizes, how
    they transfer (`transfer.json`). Leaves a figure such as `lr_transfer.png`, or pages of it.
    Returns 1 if a job or the figure failed.
    """
    results = read_results(sweep_dir)
    x = transfer.swept_hyperparameter(results)
    best = transfer.best(results, metric, x)
    if best.empty:
        return conclude(results, sweep_dir)
    _report_best(best, metric, x, sweep_dir, several=results[x].nunique() > 1)
    size = transfer.swept_size(results)
    if size and (results.groupby(size)[x].nunique() > 1).any():
        _report_transfer(results, metric, size, x, sweep_dir)
    code = conclude(results, sweep_dir)
    file = sweep_dir / f"{x.rpartition('.')[2]}_transfer.png"
    failed = save_pages(file, figures.plot_transfer_pages, results, metric, size or "width", x)
    return max(code, failed)


def _report_best(best: pd.DataFrame, metric: str, x: str, sweep_dir: Path, several: bool) -> None:
    """Write `best.csv` and print it; `several` says whether there was anything to choose from."""
    file = sweep_dir / "best.csv"
    save_table(best, file)
    name = transfer.HYPERPARAMETERS[x]
    if not several:
        show(best.drop(columns="at_edge"), f"{metric} (one {name}: no optimum to speak of)", file)
    elif is_numeric_dtype(best[x]):
        show(best, f"best {name}s by {metric}", file)
    else:  # choices have no edge
        show(best.drop(columns="at_edge"), f"best {name}s by {metric}", file)


def _report_transfer(
    results: pd.DataFrame, metric: str, size: str, x: str, sweep_dir: Path
) -> None:
    """Write `transfer.json` and print it; warn of optima at the edge of the grid."""
    optima = transfer.optima(results, metric, size, x)
    table = transfer.transfer(results, metric, size, x, optima)
    plain = transfer.transfer_json(optima, table, metric, size, x)
    file = sweep_dir / "transfer.json"
    write_atomically(file, json.dumps(plain, indent=1))
    if table.empty:
        return
    unit = ": drift in octaves per doubling" if "drift" in table else ""
    title = f"transfer of the {transfer.HYPERPARAMETERS[x]} along {size}{unit}"
    rounded = _rounded(table, optima["loss"].abs().max())
    known = without_unknown(rounded)
    show(known.drop(columns="edges"), title, file)
    for column, reason in REASONS.items():
        if column in table and column not in known:
            print(reason)
    print_lines(_edge_warnings(table, results, size, x), file)


def _rounded(table: pd.DataFrame, loss: float) -> pd.DataFrame:
    """Round to what a person reads: octaves to 0.001, and differences of losses to 1e-6 of `loss`.

    What is left of an exact zero, such as -3e-16, becomes 0.
    """
    table = table.copy()
    for column in OCTAVES:
        if column in table:
            table[column] = table[column].round(3) + 0.0  # -0.0 becomes 0.0
    for column in LOSSES:
        noticeable = table[column].isna() | (table[column].abs() > 1e-6 * loss)
        table[column] = table[column].where(noticeable, 0.0)
    return table


def _edge_warnings(table: pd.DataFrame, results: pd.DataFrame, size: str, x: str) -> list[str]:
    """Say for each series at which sizes its optimum lies at the edge of the grid."""
    keys = []
    for key in transfer.curve_keys(results, x):
        if key not in (size, "parametrization") and table[key].nunique(dropna=False) > 1:
            keys.append(key)
    warnings = []
    for row in table[table["edges"] != ""].to_dict("records"):
        settings = [f"{key}={row[key]}" for key in keys]
        series = ", ".join([row["parametrization"], *settings])
        where = f"at the edge of the grid at {size} {row['edges']}"
        warnings.append(f"warning: {series}: the optimum lies {where}")
    return warnings
