"""The report of norms of updates: which norm tells how far an update moves the activations?"""

from pathlib import Path

import pandas as pd

from mupl.analysis import norms
from mupl.figures import norms as figures
from mupl.report.common import (
    COORDINATES_FILE,
    conclude,
    gather,
    read_results,
    save_figure,
    save_table,
    show,
)


def update_norms(sweep_dir: Path, metric: str = "val_loss", where: str | None = None) -> int:
    """Write `update_norms.csv`, `update_norms.png` and `correlations.csv`.

    Returns 1 if a job or the figure failed. The metric is not used.
    """
    results = read_results(sweep_dir, where)
    code = conclude(results, sweep_dir)
    rows = gather(results, sweep_dir, COORDINATES_FILE)
    shapes = gather(results, sweep_dir, "parametrization.csv")
    table = norms.update_norms(rows)
    table = table.merge(_layer_labels(shapes))
    save_table(table, sweep_dir / "update_norms.csv")
    several = results["parametrization"].nunique() > 1
    by = "parametrization" if several else "optimizer"
    correlations = norms.correlations(table, by=by)
    file = sweep_dir / "correlations.csv"
    save_table(correlations, file)
    title = "correlation over layers of log(norm of the update) with log(RMS change of activations)"
    show(correlations, title, file)
    figure = sweep_dir / "update_norms.png"
    failed = save_figure(figure, figures.plot_update_norms, table, by=by)
    return max(code, failed)


def _layer_labels(tables: pd.DataFrame) -> pd.DataFrame:
    """Return each weight's layer and label, such as "layers.1" and "layers.1 8x16" (in x out)."""
    weights = tables[tables["name"].str.endswith(".weight")]
    layers = weights["name"].str.removesuffix(".weight")
    labels = []
    for layer, shape in zip(layers, weights["shape"], strict=True):
        in_by_out = "x".join(reversed(shape.split("x")))
        labels.append(f"{layer} {in_by_out}")
    return pd.DataFrame({"layer": layers, "shape": labels}).drop_duplicates()
