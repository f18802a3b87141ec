"""A sweep's folder -> its results table, summary and figure."""

from pathlib import Path

import pandas as pd
from rich.console import Console

from mupl.analysis.transfer import best
from mupl.parametrization.report import rich_table
from mupl.sweep.results import collect, write_atomically


def report(sweep_dir: Path, metric: str = "val_loss") -> int:
    """Write `results.csv` and `lr_transfer.png` into the sweep's folder and print the summary; returns the failures."""
    console = Console()
    results = collect(sweep_dir)
    if results.empty:
        console.print(f"no results in {sweep_dir}")
        return 0
    write_atomically(sweep_dir / "results.csv", results.to_csv(index=False))
    summary = best(results, metric)
    if len(summary):
        console.print(rich_table(_records(summary), title=f"best learning rates by {metric}"))
        draw(results, metric, sweep_dir / "lr_transfer.png")
    counts = results["status"].value_counts()
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()), f"in {sweep_dir}")
    for _, row in results[results["status"] == "failed"].iterrows():
        console.print(f"failed: job {row['folder']}: {row['error']}", style="red", markup=False)
    return int(counts.get("failed", 0))


def draw(results: pd.DataFrame, metric: str, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from mupl.figures.transfer import lr_transfer

    lr_transfer(results, metric).savefig(file, dpi=150)


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
