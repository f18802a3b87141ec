"""The part of a page on losses: of every setting where nothing is tuned, and during training."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mupl.analysis import transfer
from mupl.figures.style import by_rank, chosen_lines, with_unit, with_written_names
from mupl.report.losses import Losses
from mupl.report.page.charts import (
    HIGH,
    POINT,
    Axis,
    Spec,
    color,
    layer,
    lines_with_bands,
    panel,
    tooltip,
)
from mupl.report.page.contents import Contents
from mupl.report.page.elements import Charts, Finding, Panel, Section, Table, cell

METRICS_FILE = "metrics.csv"  # of each run, by Lightning's CSV logger
LEAST_POINTS = 3  # of a curve: fewer are no curve
MOST_POINTS = 60  # more are not seen
CURVES = {"train_loss": "training loss", "val_loss": "validation loss"}


def final_losses(losses: Losses) -> tuple[Section | None, list[Finding]]:
    """Return a chart of the final loss of every setting, and the best; None if all diverged."""
    table = by_rank(losses.curves)
    table = table[np.isfinite(table["mean"])]
    if table.empty:
        return None, []
    keys = transfer.differing_keys(table, [*losses.keys, losses.x])
    table["setting"] = transfer.labels(with_written_names(table[keys]))
    table = table.sort_values("mean")
    label = with_unit(losses.metric, losses.unit)
    points = table.rename(columns={"mean": "loss", "min": "low", "max": "high"})
    points = points[["setting", "loss", "low", "high", "seeds"]].assign(series="")
    at_x = Axis(label, {"zero": False}).encode("loss")
    names = Axis("", {"domain": table["setting"].tolist()}, "ordinal").encode("setting")
    dots: Spec = {"x": at_x, "y": names, "color": color([])}
    ranges = dots | {"x": at_x | {"field": "low"}, "x2": HIGH}
    hover = tooltip(loss=label, low="lowest", high="highest", seeds="seeds")
    layers = [
        layer({"type": "rule", "strokeWidth": 2}, ranges),
        layer(POINT | {"size": 60}, dots | {"tooltip": hover}),
    ]
    said = [f"{row.setting}: {cell(row.loss)}" for row in points.itertuples()]
    title = f"Final {label}"
    description = f"{title}. {'; '.join(said)}."
    drawn = panel(title, points, layers, description, height=max(60, 22 * len(points)))
    caption = "A dot is the mean over seeds, a line their range; the lowest is first."
    of_all = Table.of("All final losses", points.drop(columns="series"))
    best = points.iloc[0]
    findings = []
    if len(points) > 1:
        text = f"The lowest {label} is {cell(best['loss'])}, of {best['setting']}."
        findings.append(Finding(text))
    return Section("Final losses", [Charts(caption, [drawn], table=of_all)]), findings


def loss_curves(contents: Contents, losses: Losses) -> Section | None:
    """Return the losses during training, of the runs at the best value of each curve."""
    size = losses.size
    best = by_rank(losses.best)
    if best.empty or "folder" not in losses.results:
        return None
    keys = [*losses.keys, losses.x]
    chosen = best[keys].merge(losses.results, how="left", on=keys)
    panel_keys = transfer.differing_keys(best, losses.series_keys)
    chosen["panel"] = transfer.labels(with_written_names(chosen[panel_keys]))
    chosen["series"] = chosen[size].astype(str) if size else ""
    tables = [_of_run(contents, run) for run in chosen.to_dict("records")]
    curves = pd.concat([table for table in tables if table is not None] or [pd.DataFrame()])
    if curves.empty:
        text = (
            "The runs logged their losses at too few steps for a curve; "
            "trainer.log_every_n_steps=1 logs each."
        )
        return Section("Loss curves", [text])
    along = transfer.SIZES.get(size, size) if size else ""
    ordered = chosen.sort_values(size) if size else chosen
    series = list(dict.fromkeys(ordered["series"]))
    shown = chosen_lines(series)
    panels = []
    for kind, of_kind in curves.groupby("kind", sort=False):
        axis = _loss_axis(with_unit(str(kind), losses.unit), of_kind["loss"])
        for title, rows in of_kind.groupby("panel", sort=False):
            panels.append(_panel(f"{title}: {CURVES[str(kind)]}", rows, series, axis))
    name = transfer.hyperparameter_name(losses.x)
    caption = f"Loss during training, at the best {name} of each curve." if size else ""
    hidden = [name for name in series if name not in shown]
    return Section("Loss curves", [Charts(caption, panels, series, along, hidden)])


def _of_run(contents: Contents, run: Mapping[Any, Any]) -> pd.DataFrame | None:
    """Read the losses that one run logged; None if they are too few for a curve."""
    logged = contents.job_table(str(run["folder"]), METRICS_FILE)
    if logged is None or "step" not in logged:
        return None
    found = [column for column in CURVES if column in logged]
    long = logged.melt(["step"], found, var_name="kind", value_name="loss").dropna()
    counts = long.groupby("kind")["step"].transform("nunique")
    long = long[counts >= LEAST_POINTS]
    if long.empty:
        return None
    return long.assign(panel=run["panel"], series=run["series"])


def _loss_axis(label: str, losses: pd.Series) -> Axis:
    """Return an axis for all but the largest losses: the first steps of a run may be far above."""
    finite = losses[np.isfinite(losses)]
    low, high = float(finite.min()), float(finite.quantile(0.99))
    if low > 0 and high > 4 * low:
        return Axis.of_size(label, pd.Series([low, high]))
    span = (high - low) or 1.0
    scale = {"domain": [low - 0.05 * span, high + 0.05 * span], "nice": False, "zero": False}
    return Axis(label, scale)


def _panel(title: str, rows: pd.DataFrame, series: list[str], axis: Axis) -> Panel:
    steps = np.sort(rows["step"].unique())
    thinned = steps[np.unique(np.linspace(0, len(steps) - 1, MOST_POINTS).astype(int))]
    rows = rows[rows["step"].isin(thinned) & np.isfinite(rows["loss"])]
    means = rows.groupby(["series", "step"], sort=False)["loss"].agg(["mean", "min", "max"])
    points = means.reset_index()
    points = points.rename(columns={"mean": "loss", "min": "low", "max": "high"})
    at_x = Axis("step", {"zero": False, "nice": False}, least_step=1).encode("step")
    loss = axis.encode("loss")
    hover = tooltip(series="series", step="step", loss="loss", low="lowest", high="highest")
    layers = lines_with_bands(at_x, loss, series, hover, dots=False)
    ends = points.groupby("series", sort=False)["loss"].last()
    said = [f"{name} ends at {cell(float(value))}" for name, value in ends.items()]
    return panel(title, points, layers, f"{title}. {'; '.join(said)}.")
