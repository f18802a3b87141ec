"""How a table becomes a figure and numbers: one view for each kind of table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mupl.analysis import coordinates, edges, norms
from mupl.figures.coordinates import plot_checks, plot_coordinates
from mupl.figures.norms import plot_update_norms
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.figures.unit_scale import plot_unit_scale
from mupl.report import ablation
from mupl.report.coordinate_check import check_title, with_check_labels
from mupl.report.losses import Losses
from mupl.reproduce import two_vectors

METRIC = "val_loss"
UNUSED = ("folder", "trainer", "experiment", "error")  # of results: nothing is read from them


@dataclass(frozen=True)
class View:
    """What is made of a table.

    Args:
        file: where the commands leave the table, in their folder.
        plot: draws it.
        numbers: makes the table of numbers that expectations speak of.
        kept: selects what is kept of the table in the repository, as text of a CSV file.
    """

    file: str
    plot: Callable[[pd.DataFrame], Figure]
    numbers: Callable[[pd.DataFrame], pd.DataFrame]
    kept: Callable[[pd.DataFrame], str]


def plot_transfer(results: pd.DataFrame) -> Figure:
    """Plot final loss against the hyperparameter that a table of results sweeps."""
    losses = Losses.of_sweep(results, METRIC, "nats")
    return plot_hyperparameter_transfer(
        losses.results, METRIC, losses.size_or_width, losses.x, losses.unit
    )


def transfer_numbers(results: pd.DataFrame) -> pd.DataFrame:
    """Return what `mupl.analysis.transfer.transfer` does, with the middle of the optima.

    Columns beside its own: octave, the median over sizes of log2 of the optimal x, and loss, the
    median over sizes of the loss there; and between which values numbers lie whose optima are at
    the edge of the grid (`mupl.analysis.edges.bounds`).
    """
    losses = Losses.of_sweep(results, METRIC, "nats")
    keys = losses.series_keys
    optima = losses.optima
    if pd.api.types.is_numeric_dtype(optima[losses.x]):
        optima = optima.assign(octave=np.log2(optima[losses.x]))
    middle = [column for column in ("octave", "loss") if column in optima]
    medians = optima.groupby(keys, dropna=False)[middle].median()
    known = edges.bounds(optima, losses.curves, keys, losses.size_or_width, losses.x)
    return losses.transfer.merge(medians.reset_index(), on=keys).merge(known, on=keys)


def _axis_and_rows(rows: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    along = coordinates.swept_axis(rows)
    return along, coordinates.over_blocks(rows) if along == "depth" else rows


def plot_check(rows: pd.DataFrame) -> Figure:
    """Plot a coordinate check; several beside one another, after their last update."""
    along, rows = _axis_and_rows(rows)
    verdict = coordinates.verdict(rows, along=along)
    series = rows[coordinates.check_keys(rows, along)].drop_duplicates()
    if len(series) > 1:
        return plot_checks(*with_check_labels(rows, verdict, along), along=along)
    title = check_title(series.columns.tolist(), series.iloc[0].tolist())
    return plot_coordinates(rows, title, along=along, verdict=verdict)


def check_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a verdict on each tensor, kind and step, with the columns failed (0 or 1) and off.

    `off` is the distance of the slope from the range in which it must lie.
    """
    along, rows = _axis_and_rows(rows)
    table = coordinates.verdict(rows, along=along)
    above = table["slope"] - table["high"]
    below = table["low"] - table["slope"]
    off = pd.concat([above, below], axis=1).max(axis=1).clip(lower=0)
    failed = (table["verdict"] == coordinates.FAIL).astype(int)
    return table.assign(off=off, failed=failed)


def plot_ablation(rows: pd.DataFrame) -> Figure:
    """Plot the outputs of blocks against width: a column for each further rule."""
    return ablation.plot(ablation.without_folders(rows), coordinates.swept_axis(rows))


def ablation_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `check_numbers` with parametrizations by their short names."""
    return ablation.without_folders(check_numbers(rows))


def _norms_by(table: pd.DataFrame) -> str:
    return "parametrization" if table["parametrization"].nunique() > 1 else "optimizer"


def plot_norms(table: pd.DataFrame) -> Figure:
    """Plot norms of updates beside the change of activations, layer by layer."""
    return plot_update_norms(table, by=_norms_by(table))


def norm_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return how far layers differ (largest over smallest, all seeds), and correlations.

    Columns: name (of the parametrization or the optimizer), each norm and activation_change with
    their ratios, and each norm's correlation with the change of activations as `NORM_correlation`.
    """
    by = _norms_by(table)
    quantities = [*norms.NORMS, "activation_change"]
    groups = table.groupby(by, sort=False)[quantities]
    ratios = groups.max() / groups.min()
    found = norms.correlations(table, by).set_index(by)
    found = found.add_suffix("_correlation").reset_index()
    found = found.merge(ratios.reset_index(), how="left", on=by)
    return found.rename(columns={by: "name"})


def unit_scale_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row a tensor, with failed (0 or 1): whether its RMS is outside the band."""
    return table.assign(failed=(~table["passed"].astype(bool)).astype(int))


def _whole(table: pd.DataFrame) -> str:
    return table.to_csv(index=False)


def _rounded(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g")


def _kept_results(results: pd.DataFrame) -> str:
    results = results.drop(columns=[key for key in UNUSED if key in results])
    for key in results.filter(regex=r"^data\."):  # folders of a machine say nothing elsewhere
        names = [Path(value).name if isinstance(value, str) else value for value in results[key]]
        results[key] = names
    digits = {"train_loss": 6, METRIC: 6, "val_accuracy": 4, "readout_norm": 4}
    return _whole(results.round(digits))


def _kept_rows(rows: pd.DataFrame) -> str:
    judged = rows["low"].notna() | rows["zero"].fillna(False).astype(bool)
    return rows[judged].to_csv(index=False, float_format="%.5g")


VIEWS = {
    "transfer": View("results.csv", plot_transfer, transfer_numbers, _kept_results),
    "coordinate_check": View("coord_check.csv", plot_check, check_numbers, _kept_rows),
    "ablation": View("coord_check.csv", plot_ablation, ablation_numbers, _kept_rows),
    "update_norms": View("update_norms.csv", plot_norms, norm_numbers, _rounded),
    "unit_scale": View("unit_scale.csv", plot_unit_scale, unit_scale_numbers, _rounded),
    "two_vectors": View("teaching.csv", two_vectors.plot, two_vectors.slopes, _rounded),
}
