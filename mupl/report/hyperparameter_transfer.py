"""The report of a swept hyperparameter: its best values, and how they transfer."""

import json
from pathlib import Path

import pandas as pd

from mupl.analysis import transfer
from mupl.figures import transfer as figures
from mupl.files import write_atomically
from mupl.report.common import conclude, save, show
from mupl.sweep.results import collect


def hyperparameter_transfer(sweep_dir: Path, metric: str = "val_loss") -> int:
    """Write `results.csv`, and report on the swept one of `mupl.analysis.transfer.HYPERPARAMETERS`.

    Leaves a figure such as `lr_transfer.png`, prints the best values and, over two or more sizes,
    how they transfer (`transfer.json`). Returns 1 if a job failed.
    """
    results = collect(sweep_dir)
    x = transfer.swept_hyperparameter(results)
    best = transfer.best(results, metric, x)
    if len(best):
        show(best, f"best {transfer.HYPERPARAMETERS[x]}s by {metric}")
        size = transfer.swept_size(results)
        if size and (results.groupby(size)[x].nunique() > 1).any():
            _report_transfer(results, metric, size, x, sweep_dir)
        figure = figures.plot_hyperparameter_transfer(results, metric, size or "width", x)
        name = x.rpartition(".")[2]
        save(figure, sweep_dir / f"{name}_transfer.png")
    return conclude(results, sweep_dir)


def _report_transfer(
    results: pd.DataFrame, metric: str, size: str, x: str, sweep_dir: Path
) -> None:
    """Write `transfer.json` and print it; warn of optima at the edge of the grid."""
    optima = transfer.optima(results, metric, size, x)
    table = transfer.transfer(results, metric, size, x, optima)
    plain = transfer.transfer_json(optima, table, metric, size, x)
    write_atomically(sweep_dir / "transfer.json", json.dumps(plain, indent=1))
    if table.empty:
        return
    unit = ": drift in octaves per doubling" if "drift" in table else ""
    title = f"transfer of the {transfer.HYPERPARAMETERS[x]} along {size}{unit}"
    show(table.drop(columns="edges"), title)
    for row in table[table["edges"] != ""].to_dict("records"):
        where = f"at the edge of the grid at {size} {row['edges']}"
        print(f"warning: {row['parametrization']}: the optimum lies {where}")
