"""Transfer analysis on losses whose optima, drifts and asymptotes are known."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mupl.analysis.transfer import (
    HYPERPARAMETERS,
    LossLaw,
    Optimum,
    best,
    curves,
    optima,
    swept_hyperparameter,
    swept_size,
    transfer,
    transfer_json,
)
from mupl.figures.transfer import plot_hyperparameter_transfer, plot_transfer_pages
from mupl.identity import write_result
from mupl.report.hyperparameter_transfer import hyperparameter_transfer

TABLES = ("results.csv", "best.csv", "transfer.json")
WIDTHS = (64, 128, 256, 512, 1024)


def sweep(
    drift: float = 0.0,
    optimum: float = -8.3,
    bend: float = 0.0,
    asymptote: float = 1.0,
    parametrization: str = "mup",
    seeds: Sequence[float] = (-0.1, 0.0, 0.1),
    widths: Sequence[int] = WIDTHS,
    grid: Sequence[float] = range(-14, -2),
) -> pd.DataFrame:
    """loss = asymptote + 3 / width^(1/2) + h/2 octaves^2, h = 0.1 (width / 64)^bend; a seed moves
    the optimum by its number of octaves."""
    rows = []
    for width in widths:
        for lr in grid:
            for seed, offset in enumerate(seeds):
                octaves = lr - optimum - offset - drift * math.log2(width / 64)
                loss = asymptote + 3 / width**0.5 + 0.05 * (width / 64) ** bend * octaves**2
                rows.append(
                    {
                        "width": width,
                        "lr": 2.0**lr,
                        "seed": seed,
                        "parametrization": parametrization,
                        "optimizer": "adamw",
                        "status": "completed",
                        "steps": 5,
                        "train_loss": loss,
                        "val_loss": loss,
                    }
                )
    return pd.DataFrame(rows)


def test_the_optimum_is_that_of_the_parabola_not_of_the_grid() -> None:
    table = optima(sweep(drift=-0.5))
    assert np.log2(table["lr"]).tolist() == pytest.approx([-8.3 - 0.5 * k for k in range(5)])
    assert table["curvature"].tolist() == pytest.approx([0.1] * 5)
    half = 4.303 * 0.1 / 3**0.5  # Student's t of three seeds
    assert np.log2(table["lr_low"]).tolist() == pytest.approx(
        [-8.3 - 0.5 * k - half for k in range(5)], rel=1e-3
    )
    assert not table["at_edge"].any()


def test_regret_is_what_the_smallest_width_s_optimum_costs() -> None:
    assert optima(sweep())["regret"].tolist() == pytest.approx([0] * 5, abs=1e-12)
    near = optima(sweep(drift=-0.25))["regret"].tolist()
    assert near == pytest.approx([0.05 * (0.25 * k) ** 2 for k in range(5)])
    far = optima(sweep(drift=-1.0))[
        "regret"
    ].tolist()  # beyond one grid step, by linear interpolation
    for k in range(2, 5):
        assert 0.05 * k**2 <= far[k] < 0.05 * k**2 + 0.05 / 4


def test_drift_in_octaves_per_doubling_with_its_interval() -> None:
    (row,) = transfer(sweep(drift=-0.5)).to_dict("records")
    assert (row["drift"], row["drift_low"], row["drift_high"]) == pytest.approx((-0.5, -0.5, -0.5))
    assert row["fit_error"] == pytest.approx(0, abs=1e-9)
    assert row["worst_regret"] == pytest.approx(0.05 * 4, rel=0.1)
    assert math.isnan(transfer(sweep(seeds=[0.0])).loc[0, "drift_low"])


def test_the_interval_contains_a_drift_that_is_not_the_mean_of_single_seeds_drifts() -> None:
    """Seed 0 has a hundred times the curvature of the others, and so nearly the drift of all."""
    steep = sweep(drift=-0.5, seeds=[0.0])
    steep["val_loss"] = 1 + 100 * (steep["val_loss"] - 1)
    parts = [steep]
    for seed, drift in ((1, 0.5), (2, 0.52)):
        parts.append(sweep(drift=drift, seeds=[0.0]).assign(seed=seed))
    results = pd.concat(parts, ignore_index=True)
    (row,) = transfer(results).to_dict("records")
    assert row["drift"] == pytest.approx(-0.5 + 2.02 / 102)  # weighted by the curvatures
    assert row["drift_low"] < row["drift"] < row["drift_high"]
    assert row["drift"] - row["drift_low"] == pytest.approx(row["drift_high"] - row["drift"])
    found = optima(results)
    assert (found["lr_low"] <= found["lr"]).all()
    assert (found["lr"] <= found["lr_high"]).all()


@pytest.mark.parametrize("diverged", [False, True])
def test_intervals_are_those_of_sweeps_without_each_seed(diverged: bool) -> None:
    """A seed that diverged beside the best learning rate of a width changes where that lies."""
    results = sweep(drift=-0.5, seeds=(-0.6, 0.3, 0.0, 0.9), widths=WIDTHS[:3])
    results["val_loss"] += np.random.default_rng(0).normal(scale=0.05, size=len(results))
    if diverged:
        at = (results["width"] == 128) & (results["seed"] == 1) & (results["lr"] == 2.0**-8)
        results.loc[at, ["status", "val_loss"]] = ["diverged", math.nan]
    parts = [results[results["seed"] != seed] for seed in range(4)]
    drifts = [transfer(part).loc[0, "drift"] for part in parts]
    octaves = np.log2([optima(part)["lr"] for part in parts])

    def half(without: np.ndarray) -> np.ndarray:
        squares = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
        return 3.1824 * (3 / 4 * squares) ** 0.5  # Student's t of four seeds

    (row,) = transfer(results).to_dict("records")
    bounds = [row["drift"] - half(np.array(drifts)), row["drift"] + half(np.array(drifts))]
    assert [row["drift_low"], row["drift_high"]] == pytest.approx(bounds, rel=1e-4)
    assert row["drift_seeds"] == 4
    found = np.log2(optima(results)[["lr", "lr_low", "lr_high"]])
    assert found["lr_low"].tolist() == pytest.approx(found["lr"] - half(octaves), rel=1e-4)
    assert found["lr_high"].tolist() == pytest.approx(found["lr"] + half(octaves), rel=1e-4)


def test_norm_transfer_is_the_slope_of_the_norm_at_the_optimum() -> None:
    results = sweep(drift=-0.5, seeds=(0.0,))
    octaves = np.log2(results["lr"])
    growth = np.log2(results["width"] / 64)
    # linear in log2(lr) at a width, and 3 width^0.25 where the optimum of that width lies
    at_optimum = octaves + 8.3 + 0.5 * growth
    norms = results.assign(readout_norm=3 * 2 ** (0.25 * growth) + at_optimum)
    found = optima(norms)
    assert found["readout_norm"].tolist() == pytest.approx([3 * 2 ** (0.25 * k) for k in range(5)])
    (row,) = transfer(norms).to_dict("records")
    assert (row["norm_drift"], row["norm_low"]) == pytest.approx((0.25, 0.25))
    assert "norm_drift" not in transfer(results)
    # a width whose norms are not known leaves the slope unknown
    lost = norms.assign(readout_norm=norms["readout_norm"].where(norms["width"] != 128))
    (row,) = transfer(lost).to_dict("records")
    assert math.isnan(row["norm_drift"])


def test_the_fit_error_is_the_distance_from_the_scaling_law() -> None:
    shifts = dict(
        zip(WIDTHS, (0.3, -0.3, 0.0, -0.3, 0.3), strict=True)
    )  # orthogonal to lines but for its mean
    parts = [sweep(optimum=-8 + shift, widths=[width]) for width, shift in shifts.items()]
    (row,) = transfer(pd.concat(parts)).to_dict("records")
    assert row["drift"] == pytest.approx(0, abs=1e-9)
    assert row["fit_error"] == pytest.approx(np.std(list(shifts.values())))


@pytest.mark.parametrize("bend", [-0.5, 0.0, 0.25])
def test_robustness_is_the_power_of_size_in_the_curvature(bend: float) -> None:
    assert transfer(sweep(bend=bend)).loc[0, "robustness"] == pytest.approx(bend)


def test_the_asymptotic_penalty_is_over_the_best_parametrization() -> None:
    table = transfer(pd.concat([sweep(), sweep(asymptote=1.2, parametrization="sp")])).set_index(
        "parametrization"
    )
    assert table["asymptotic_loss"].to_dict() == pytest.approx({"mup": 1.0, "sp": 1.2}, abs=2e-3)
    assert table["asymptotic_penalty"].to_dict() == pytest.approx({"mup": 0.0, "sp": 0.2}, abs=2e-3)
    assert math.isnan(LossLaw.of(np.array([1.0, 2.0, 4.0]), np.array([3.0, 2.0, 1.0])).limit)


def test_an_optimum_at_the_edge_of_the_grid_is_said() -> None:
    table = sweep(drift=-2.0)  # at -14.3 and -16.3 for the two largest
    assert optima(table)["at_edge"].tolist() == [False, False, False, True, True]
    assert transfer(table).loc[0, "edges"] == "512, 1024"


def test_beside_a_learning_rate_that_diverges_the_best_of_the_grid_is_taken() -> None:
    lr, loss = pd.Series([0.1, 0.2, 0.4]), pd.Series([2.0, 1.0, math.inf])
    optimum = Optimum.of(lr, loss)
    assert (optimum.x, optimum.loss, optimum.at_edge) == (pytest.approx(0.2), 1.0, False)
    assert math.isnan(optimum.curvature)
    assert optimum.regret(0.1, lr, loss) == pytest.approx(1.0)
    assert optimum.regret(0.3, lr, loss) == math.inf


def test_other_sizes_and_series() -> None:
    table = sweep(drift=-0.5).rename(columns={"width": "batch_size"}).assign(width=128)
    assert swept_size(table) == "batch_size"
    assert transfer(table, size="batch_size").loc[0, "drift"] == pytest.approx(-0.5)
    assert swept_size(sweep()) == "width"
    assert swept_size(sweep(widths=[64])) is None
    assert swept_size(sweep().assign(width=lambda t: t["width"].map(lambda w: f"[{w}, 8]"))) is None
    both = pd.concat([sweep().assign(depth=2), sweep(drift=1.0).assign(depth=4)])
    assert transfer(both).set_index("depth")["drift"].to_dict() == pytest.approx(
        {2: 0, 4: 1}, abs=1e-9
    )


@pytest.mark.parametrize("x", [x for x in HYPERPARAMETERS if x not in ("lr", "scheduler")])
def test_other_hyperparameters_have_the_numbers_that_the_learning_rate_has(x: str) -> None:
    other = sweep(drift=-0.5, bend=-0.5).rename(columns={"lr": x}).assign(lr=0.01)
    assert swept_hyperparameter(other) == x
    of_lr, of_x = transfer(sweep(drift=-0.5, bend=-0.5)), transfer(other, x=x)
    pd.testing.assert_frame_equal(of_x[of_lr.columns], of_lr)
    assert np.log2(optima(other, x=x)[x]).tolist() == pytest.approx(
        [-8.3 - 0.5 * k for k in range(5)]
    )
    both = pd.concat([other, sweep(drift=1.0).assign(**{x: 1.0})])
    assert swept_hyperparameter(both) == "lr"


def test_a_choice_has_a_regret_and_neither_drift_nor_edges() -> None:
    """The schedule that is best at 64 and 128 costs 0.2 at 256."""
    losses = {64: (1.0, 1.5, 1.2), 128: (0.9, 1.4, 1.2), 256: (0.9, 0.7, 1.0)}
    table = pd.DataFrame(
        [
            {
                "width": width,
                "lr": 0.01,
                "seed": 0,
                "parametrization": "mup",
                "optimizer": "adamw",
                "status": "completed",
                "scheduler": scheduler,
                "val_loss": loss,
            }
            for width, row in losses.items()
            for scheduler, loss in zip(("constant", "cosine", "step"), row, strict=True)
        ]
    )
    assert swept_hyperparameter(table) == "scheduler"
    found = optima(table, x="scheduler")
    assert (
        found["scheduler"].tolist()
        == best(table, x="scheduler")["scheduler"].tolist()
        == 2 * ["constant"] + ["cosine"]
    )
    assert found["regret"].tolist() == pytest.approx([0, 0, 0.2])
    assert not found["at_edge"].any()
    (row,) = transfer(table, x="scheduler").to_dict("records")
    assert (row["worst_regret"], row["edges"]) == (pytest.approx(0.2), "")
    assert "drift" not in row
    missing = table[(table["width"] != 256) | (table["scheduler"] != "constant")]
    assert math.isnan(optima(missing, x="scheduler")["regret"].iloc[-1])


@pytest.mark.parametrize("least", [0.0, -0.5])
def test_losses_of_zero_or_below_have_a_linear_axis(least: float) -> None:
    table = sweep(seeds=[0.0])
    table["val_loss"] += least - table["val_loss"].min()
    figure = plot_hyperparameter_transfer(table)
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[0].get_ylim()[0] < least
    plt.close(figure)


def test_curves_that_are_best_at_their_smallest_x_can_be_drawn() -> None:
    """The limits of the axis of losses would be equal, of which matplotlib warns."""
    figure = plot_hyperparameter_transfer(sweep(optimum=-14, seeds=[0.0], widths=[64]))
    low, high = figure.axes[0].get_ylim()
    assert low < 1.375 < high
    plt.close(figure)


def test_what_never_trained_is_left_out() -> None:
    table = sweep()
    table.loc[table["width"] == 256, ["status", "val_loss"]] = ["diverged", math.nan]
    assert optima(table)["width"].tolist() == [64, 128, 512, 1024]
    assert transfer(table).loc[0, "drift_seeds"] == 3
    assert transfer(table.assign(status="diverged", val_loss=math.nan)).empty


def test_the_table_of_runs_is_gone_over_as_often_for_many_curves_as_for_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def counted(*arguments: Any) -> pd.DataFrame:
        calls.append(arguments)
        return curves(*arguments)

    monkeypatch.setattr("mupl.analysis.transfer.curves", counted)
    for depths in (2, 20):
        parts = [sweep(widths=[64, 128]).assign(depth=depth) for depth in range(depths)]
        assert len(transfer(pd.concat(parts))) == depths
    assert len(calls) == 2 * 3


def test_a_seed_that_failed_at_one_size_has_no_part_in_the_interval_of_the_drift() -> None:
    """It is over the seeds that have a run at every size, those of optima over the seeds there."""
    table = sweep(drift=-0.5)
    failed = (table["width"] == 256) & (table["seed"] == 2)
    table.loc[failed, ["status", "val_loss"]] = ["failed", math.nan]
    (row,) = transfer(table).to_dict("records")
    assert (row["drift_low"], row["drift_high"]) == pytest.approx((-0.5, -0.5))
    assert row["drift_seeds"] == 2
    found = optima(table)
    halves = [4.303 * 0.1 / 3**0.5] * 5
    halves[2] = 12.706 * 0.05  # Student's t of two seeds, which are 0.1 octaves apart
    assert np.log2(found["lr_high"] / found["lr"]).tolist() == pytest.approx(halves, rel=1e-3)
    table.loc[table["seed"] > 0, ["status", "val_loss"]] = ["failed", math.nan]
    assert math.isnan(transfer(table).loc[0, "drift_low"])


def test_series_that_lack_a_key_have_an_interval_too() -> None:
    parts = [sweep(drift=-0.5).assign(depth=None), sweep(drift=1.0).assign(depth=4.0)]
    table = transfer(pd.concat(parts, ignore_index=True).astype({"depth": float}))
    assert table["drift_low"].tolist() == pytest.approx([1.0, -0.5], abs=1e-9)


def write_jobs(folder: Path, results: pd.DataFrame) -> None:
    for job, row in enumerate(results.to_dict("records")):
        named = {str(key): value for key, value in row.items()}
        write_result(folder / str(job), named | {"job": str(job)})


def test_a_sweep_ends_with_the_table_and_its_json(tmp_path: Path, capsys: Any) -> None:
    rows = sweep(drift=-2.0).to_dict("records")
    write_jobs(tmp_path, pd.DataFrame(rows))
    assert hyperparameter_transfer(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "transfer of the learning rate along width" in printed
    assert "warning: mup: the optimum lies at the edge of the grid at width 512, 1024" in printed
    saved = json.loads((tmp_path / "transfer.json").read_text())
    assert saved == transfer_json(
        optima(pd.DataFrame(rows)), transfer(pd.DataFrame(rows)), "val_loss", "width"
    )
    assert (len(saved["optima"]), len(saved["transfer"])) == (5, 1)
    assert saved["optima"][4]["curvature"] is None


def report_on(table: pd.DataFrame, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    write_jobs(folder, table)
    assert hyperparameter_transfer(folder) == 0
    return capsys.readouterr().out


def test_a_small_grid_has_a_report_without_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two widths, two learning rates and one seed: hardly anything is known."""
    printed = report_on(sweep(widths=[64, 128], grid=[-9, -8], seeds=[0.0]), tmp_path, capsys)
    assert "nan" not in printed
    assert "e-1" not in printed
    assert "too few seeds for an interval" in printed
    assert "fewer than two optima between finite losses: no robustness" in printed
    assert "fewer than four sizes: no asymptotic loss" in printed
    saved = json.loads((tmp_path / "transfer.json").read_text())
    assert saved["transfer"][0]["drift_low"] is None


def test_one_learning_rate_has_no_edge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = report_on(sweep(grid=[-8]), tmp_path, capsys)
    assert "val_loss (one learning rate: no optimum to speak of)" in printed
    assert "at_edge" not in printed


def test_a_long_table_is_cut_and_a_large_figure_has_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lr_transfer_7.png").write_text("of an earlier report")
    one = sweep(widths=[64], grid=[-9, -8], seeds=[0.0])
    parts = [one.assign(weight_decay=k / 100) for k in range(49)]
    printed = report_on(pd.concat(parts), tmp_path, capsys)
    assert f"first 40 of 49 rows; all in {tmp_path / 'best.csv'}" in printed
    assert len(printed.splitlines()) < 60
    assert len(pd.read_csv(tmp_path / "best.csv")) == 49
    assert f"3 pages: {tmp_path / 'lr_transfer_1.png'} to lr_transfer_3.png" in printed
    pages = sorted(file.name for file in tmp_path.glob("*.png"))
    assert pages == ["lr_transfer_1.png", "lr_transfer_2.png", "lr_transfer_3.png"]


def test_pages_have_the_panels_in_order_and_the_same_axes() -> None:
    parts = [sweep(widths=[64, 128], seeds=[0.0]).assign(depth=d) for d in range(1, 6)]
    pages = list(plot_transfer_pages(pd.concat(parts), panels_per_page=2))
    titles = [[axes.get_title() for axes in page.axes] for page in pages]
    assert titles == [["depth=1", "depth=2"], ["depth=3", "depth=4"], ["depth=5"]]
    limits = {axes.get_ylim() for page in pages for axes in page.axes}
    assert len(limits) == 1
    assert pages[0].axes[0].get_xscale() == pages[0].axes[1].get_xscale() == "log"
    plt.close("all")


def test_choices_have_one_order_in_all_panels() -> None:
    """Also where the first panel lacks the first choice."""
    losses = [("sp", "step"), ("sp", "linear"), ("mup", "step"), ("mup", "cosine")]
    table = pd.DataFrame(losses, columns=["parametrization", "scheduler"])
    table = table.assign(width=64, lr=0.1, seed=0, optimizer="adamw", status="completed")
    figure = plot_hyperparameter_transfer(table.assign(val_loss=[1, 2, 3, 4.0]), x="scheduler")
    figure.canvas.draw()
    for axes in figure.axes:
        labels = axes.get_xticklabels()
        assert [label.get_text() for label in labels] == ["cosine", "linear", "step"]
        assert {label.get_rotation() for label in labels} == {30}
    positions = [axes.get_lines()[0].get_xdata(orig=False).tolist() for axes in figure.axes]
    assert positions == [[1, 2], [0, 2]]
    plt.close(figure)


@pytest.mark.parametrize(
    ("grid", "shown"),
    [
        ([0.125, 0.176777, 0.25, 0.353553], ["$\\mathdefault{2^{-3}}$", "$\\mathdefault{2^{-2}}$"]),
        ([0.176777, 0.210224, 0.229251], ["0.1768", "0.2102", "0.2293"]),  # no power of two
        ([0.1, 0.2, 0.4], ["0.1", "0.2", "0.4"]),
    ],
)
def test_a_grid_by_octaves_is_labelled_by_powers_of_two(
    grid: list[float], shown: list[str]
) -> None:
    table = sweep(grid=np.log2(grid).tolist(), seeds=[0.0])
    figure = plot_hyperparameter_transfer(table)
    figure.canvas.draw()
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [label.get_text() for x, label in ticks if low <= x <= high] == shown
    plt.close(figure)


def test_of_many_sizes_some_are_named() -> None:
    figure = plot_hyperparameter_transfer(sweep(widths=range(1, 42), grid=[-9, -8], seeds=[0.0]))
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "width (14 of 41)"
    assert len(legend.get_texts()) == 15  # the last one is the star
    assert len(figure.axes[0].get_lines()) == 41
    plt.close(figure)


def test_a_figure_that_fails_loses_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = sweep()
    write_jobs(tmp_path, table)
    assert hyperparameter_transfer(tmp_path) == 0
    complete = capsys.readouterr().out
    tables = {name: (tmp_path / name).read_text() for name in TABLES}

    def fails(*arguments: Any) -> None:
        raise RuntimeError("no\nroom")

    for name in TABLES:
        (tmp_path / name).unlink()
    monkeypatch.setattr("mupl.figures.transfer.plot_transfer_pages", fails)
    assert hyperparameter_transfer(tmp_path) == 1
    line = "no lr_transfer.png (the tables are complete): RuntimeError: no room\n"
    assert capsys.readouterr().out == complete + line
    assert {name: (tmp_path / name).read_text() for name in TABLES} == tables
    assert not (tmp_path / "lr_transfer.png").exists()  # of the report before
