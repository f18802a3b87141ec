"""What a sweep ends with: a function from its folder to tables and figures in it, and an exit code."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from mupl.analysis import coordinates, norms, transfer
from mupl.analysis import unit_scale as unit_scaling
from mupl.analysis.columns import IDENTITY, OUTCOMES
from mupl.errors import ConfigError
from mupl.figures.coordinates import plot_coordinates, plot_side_by_side
from mupl.figures.norms import plot_update_norms
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.figures.unit_scale import plot_unit_scale
from mupl.identity import write_atomically
from mupl.sweep.results import collect
from mupl.terminal import print_table

COORDINATES_FILE = "coordinates.csv"
# of a transformer, mean over blocks: name -> label of a row of panels
OUTPUTS = {
    "blocks.*.attention.logits": "attention logits",
    "blocks.*.attention_residual": "after attention",
    "blocks.*.mlp_residual": "after MLPs",
    "readout": "logits",
}


def hyperparameter_transfer(sweep_dir: Path, metric: str = "val_loss") -> int:
    """`results.csv`; of the hyperparameter that is swept (one of `transfer.HYPERPARAMETERS`) a figure, such as
    `lr_transfer.png`, the best values and, over two or more sizes, how it transfers (`transfer.json`); 1 if a job
    failed."""
    results = collect(sweep_dir)
    x = transfer.swept_hyperparameter(results)
    summary = transfer.best(results, metric, x)
    if len(summary):
        show(summary, f"best {transfer.HYPERPARAMETERS[x]}s by {metric}")
        if (size := transfer.swept_size(results)) and (
            results.groupby(size)[x].nunique() > 1
        ).any():
            show_transfer(results, metric, size, x, sweep_dir)
        save(
            plot_hyperparameter_transfer(results, metric, size or "width", x),
            sweep_dir / f"{x.split('.')[-1]}_transfer.png",
        )
    return conclude(results, sweep_dir)


def show_transfer(results: pd.DataFrame, metric: str, size: str, x: str, sweep_dir: Path) -> None:
    """The table of `mupl.analysis.transfer.transfer`, `transfer.json`, and a warning of optima at the grid's edge."""
    optima = transfer.optima(results, metric, size, x)
    table = transfer.transfer(results, metric, size, x, optima)
    found = transfer.transfer_json(optima, table, metric, size, x)
    write_atomically(sweep_dir / "transfer.json", json.dumps(found, indent=1))
    if table.empty:
        return
    unit = ": drift in octaves per doubling" if "drift" in table else ""
    show(
        table.drop(columns="edges"),
        f"transfer of the {transfer.HYPERPARAMETERS[x]} along {size}{unit}",
    )
    for row in table[table["edges"] != ""].to_dict("records"):
        print(
            f"warning: {row['parametrization']}: the optimum lies at the edge of the grid at {size} {row['edges']}"
        )


def coordinate_check(sweep_dir: Path, metric: str = "val_loss") -> int:
    """`coord_check.csv`, `coord_check.png` (one for each series), `verdict.json` and the failures; 1 if there are any.

    A job whose training failed or diverged is a failure too.
    """
    results, rows, table, along = judge(sweep_dir)
    series = coordinates.check_keys(rows, along)
    checks = list(rows.groupby(series, sort=False))
    for key, group in checks:
        label = [str(v) if k in IDENTITY else f"{k}={v}" for k, v in zip(series, key, strict=True)]
        title = ", ".join(label) + (
            ": the standard parametrization, not muP" if "sp" in key else ""
        )
        suffix = "" if len(checks) == 1 else "_" + "_".join(label).replace("/", "-")
        save(plot_coordinates(group, title, along=along), sweep_dir / f"coord_check{suffix}.png")
    failures = table[~table["passed"]]
    if len(failures):
        show(
            failures.drop(columns="passed"),
            f"failed: slopes of log2(mean |x|) against log2({along})",
        )
    passed = len(table) - len(failures)
    print(
        f"coordinate check: {passed} of {len(table)} tensors, kinds and steps pass; {sweep_dir / 'verdict.json'}"
    )
    return int(len(failures) > 0 or (results["status"] != "completed").any())


def ablation(sweep_dir: Path, metric: str = "val_loss") -> int:
    """A coordinate check of parametrizations of which each has one more rule: `ablation.png`, what fails in each.

    1 if the last of them (by name) fails, which has all rules.
    """
    results, rows, table, along = judge(sweep_dir)
    for labelled in (results, rows, table):
        labelled["parametrization"] = labelled["parametrization"].str.rpartition("/")[
            2
        ]  # without its folder
    stages = list(dict.fromkeys(table["parametrization"]))
    panels = {("output", name): label for name, label in OUTPUTS.items()}
    save(
        plot_side_by_side(coordinates.over_blocks(rows), panels, along=along),
        sweep_dir / "ablation.png",
    )
    if not table["passed"].all():
        show(
            coordinates.failures_by_series(table),
            f"worst slopes against {along} of what fails, by parametrization",
        )
    for stage, judged in table.groupby("parametrization", sort=False):
        print(f"{stage}: {judged['passed'].sum()} of {len(judged)} tensors, kinds and steps pass")
    whole = results["parametrization"] == stages[-1]
    passed = table.loc[table["parametrization"] == stages[-1], "passed"].all()
    return int(not passed or (results.loc[whole, "status"] != "completed").any())


def judge(sweep_dir: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, str]:
    """Results, rows of all recorders (`coord_check.csv`), verdict (`verdict.json`), and along which size it is."""
    results = collect(sweep_dir)
    conclude(results, sweep_dir)
    rows = gather(results, sweep_dir, COORDINATES_FILE)
    write_atomically(sweep_dir / "coord_check.csv", rows.to_csv(index=False))
    along = "depth" if rows["width"].nunique() == 1 and "depth" in rows else "width"
    if along == "depth":
        rows = coordinates.over_blocks(rows)
    table = coordinates.verdict(rows, along=along)
    write_atomically(
        sweep_dir / "verdict.json", json.dumps(coordinates.verdict_json(table), indent=1)
    )
    return results, rows, table, along


def update_norms(sweep_dir: Path, metric: str = "val_loss") -> int:
    """`update_norms.csv`, `update_norms.png`, and the correlations of the norms with the change of activations."""
    results = collect(sweep_dir)
    code = conclude(results, sweep_dir)
    shapes = gather(results, sweep_dir, "parametrization.csv").query(
        "name.str.endswith('.weight')", engine="python"
    )
    shapes = shapes.assign(layer=shapes["name"].str.removesuffix(".weight"))[
        ["layer", "shape"]
    ].drop_duplicates()
    table = norms.update_norms(gather(results, sweep_dir, COORDINATES_FILE)).merge(shapes)
    table["shape"] = [
        f"{layer} {'x'.join(reversed(shape.split('x')))}"
        for layer, shape in table[["layer", "shape"]].values
    ]
    write_atomically(sweep_dir / "update_norms.csv", table.to_csv(index=False))
    by = "parametrization" if results["parametrization"].nunique() > 1 else "optimizer"
    correlations = norms.correlations(table, by=by)
    write_atomically(sweep_dir / "correlations.csv", correlations.to_csv(index=False))
    show(
        correlations,
        "correlation over layers of log(norm of the update) with log(RMS change of activations)",
    )
    save(plot_update_norms(table, by=by), sweep_dir / "update_norms.png")
    return code


def unit_scale(sweep_dir: Path, metric: str = "val_loss") -> int:
    """`unit_scale.csv`, `unit_scale.png` and the tensors whose RMS is outside the band; 1 if there are any."""
    results = collect(sweep_dir)
    code = conclude(results, sweep_dir)
    table = unit_scaling.unit_scale_verdict(gather(results, sweep_dir, COORDINATES_FILE))
    write_atomically(sweep_dir / "unit_scale.csv", table.to_csv(index=False))
    save(plot_unit_scale(table), sweep_dir / "unit_scale.png")
    failures = table[~table["passed"]]
    if len(failures):
        show(
            failures.drop(columns="passed"),
            f"failed: RMS over what is expected outside {unit_scaling.BAND}",
        )
    print(
        f"unit scale: {len(table) - len(failures)} of {len(table)} tensors pass; {sweep_dir / 'unit_scale.csv'}"
    )
    return 1 if len(failures) else code


def gather(results: pd.DataFrame, sweep_dir: Path, file: str) -> pd.DataFrame:
    """The tables of that name of all jobs as one, each row with what tells its job from the others."""
    tables = []
    for job in results.to_dict("records"):
        identity = {str(key): value for key, value in job.items() if key not in (*OUTCOMES, "lr")}
        if (path := sweep_dir / job["folder"] / file).exists():
            tables.append(pd.read_csv(path).assign(**identity))
    if not tables:
        raise ConfigError(f"{sweep_dir}: no job left a {file}; see results.csv there for why")
    return pd.concat(tables, ignore_index=True)


def conclude(results: pd.DataFrame, sweep_dir: Path) -> int:
    """Write `results.csv`, print how the jobs ended; 1 if one failed."""
    write_atomically(sweep_dir / "results.csv", results.to_csv(index=False))
    counts = results["status"].value_counts().sort_index()
    print(", ".join(f"{count} {status}" for status, count in counts.items()), "in", sweep_dir)
    for _, job in results[results["status"] == "failed"].iterrows():
        print(f"failed: job {job['folder']}: {job['error']}")
    return int("failed" in counts)


def show(table: pd.DataFrame, title: str) -> None:
    print_table(table.to_dict("records"), title)


def save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
