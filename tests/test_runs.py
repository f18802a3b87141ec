"""Runs and sweeps through Hydra, as the command line starts them."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from mupl.analysis.transfer import best, curves
from mupl.cli import main
from mupl.errors import ConfigError
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.identity import swept_keys, write_result
from mupl.sweep.results import collect
from mupl.training.cli import DIVERGED
from tests.commands import IGNORED, SMALL, Done, row_of, start, train, train_here

pytestmark = IGNORED

Swept = tuple[Path, Done]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """One multirun with good, diverging and failing jobs."""
    folder = tmp_path_factory.mktemp("sweep")
    grid = ["width=8,[8,16]", "lr=0.05,1e30,-1", "optimizer=sgd"]
    return folder, train("-m", *SMALL, *grid, f"hydra.sweep.dir={folder}", "logger=csv")


def test_a_model_of_the_working_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from mupl.models import MLP\n\n\nclass Net(MLP):\n    pass\n"
    )
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text("_target_: nets.Net\n_partial_: true\n")
    done = start(*SMALL, "--config-dir", "conf", "model=mine", "width=8", cwd=tmp_path)
    _, said = done.communicate()
    assert done.returncode == 0, said


def test_a_single_run_leaves_its_config_table_metrics_and_result(tmp_path: Path) -> None:
    arguments = ["width=16", "lr=1e-2", "data=digits", "optimizer=adamw"]
    logged = "trainer.log_every_n_steps=10"
    done = train(*SMALL, *arguments, logged, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "layers.1.weight" in done.stdout  # the table is printed
    config = OmegaConf.load(tmp_path / ".hydra" / "config.yaml")
    assert (config.width, config.lr, config.parametrization.name) == (16, 0.01, "mup")
    table = pd.read_csv(tmp_path / "parametrization.csv", index_col="name")
    assert list(table.columns) == [
        "role",
        "shape",
        "update_kind",
        "mult",
        "init",
        "init_std",
        "lr",
        "shape_factor",
        "parts",
        "eps",
        "wd",
        "grad",
    ]
    assert table.loc["layers.1.weight", ["role", "lr"]].tolist() == ["hidden", 0.005]
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert metrics["train_loss"].count() == 2
    assert metrics["val_loss"].count() == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["steps"]) == ("completed", 20)
    assert result["val_loss"] == pytest.approx(metrics["val_loss"].dropna().item(), rel=1e-6)
    summary = done.stdout.splitlines()[-1]
    said = [f"{key} {result[key]:.4g}" for key in ("train_loss", "val_loss", "val_accuracy")]
    assert summary == f"completed: {', '.join(said)}, {result['seconds']:.1f} s, {tmp_path}"


def test_a_single_run_that_diverges_says_when(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = train_here(
        capfd, *SMALL, "width=8", "lr=1e30", "optimizer=sgd", f"hydra.run.dir={tmp_path}"
    )
    assert done.returncode == DIVERGED == 3, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    summary = done.stdout.splitlines()[-1]
    step, seconds = result["steps"], result["seconds"]
    assert summary == f"diverged at step {step}: {seconds:.1f} s, {tmp_path}"


@pytest.mark.parametrize("resume", ["resume=false", "resume=true"])
def test_a_run_does_not_train_over_the_result_of_another(
    resume: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ["max_steps=2", "base_width=8", "width=8", "trainer=cpu", f"hydra.run.dir={tmp_path}"]
    assert train_here(capfd, *run).returncode == 0
    before = (tmp_path / "result.json").read_text()
    done = train_here(capfd, *run, "lr=0.5", resume)
    assert done.returncode == 1
    assert "holds the result of another run (lr=0.001, here 0.5); name another" in done.stderr
    assert (tmp_path / "result.json").read_text() == before
    assert train_here(capfd, *run, "lr=0.5", resume, "rerun=all").returncode == 0
    assert json.loads((tmp_path / "result.json").read_text())["lr"] == 0.5


LAUNCHERS = ["basic", pytest.param("joblib", marks=pytest.mark.slow)]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_needs_no_report_to_know_its_folder(
    launcher: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    done = train_here(
        capfd, "-m", *SMALL, "width=8", "max_steps=2", f"hydra/launcher={launcher}",
        "~hydra.callbacks.sweep_report", f"hydra.sweep.dir={tmp_path}/${{sweep_folder:}}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("digits-*/*/result.json")
    job = json.loads(result.read_text())["job"]
    assert result.parent.name == f"mup_adamw_width=8_lr=0.001-{job[:4]}"


def test_a_sweep_ends_with_one_tidy_table(sweep: Swept) -> None:
    folder, _ = sweep
    table = pd.read_csv(folder / "results.csv")
    assert list(table.columns[:5]) == ["width", "lr", "seed", "parametrization", "optimizer"]
    assert list(table.columns[-9:]) == [
        "status", "steps", "train_loss", "val_loss", "val_accuracy", "readout_norm", "seconds",
        "error", "folder",
    ]  # fmt: skip
    assert len(table) == 6
    status = table.groupby("lr")["status"].unique().map(list).to_dict()
    assert status == {0.05: ["completed"], 1e30: ["diverged"], -1.0: ["failed"]}
    assert set(table["width"]) == {"8", "[8, 16]"}
    completed = table[table["status"] == "completed"]
    finite = ["train_loss", "val_loss", "val_accuracy", "readout_norm"]
    assert completed[finite].notna().all(axis=None)
    unknown = table.loc[table["status"] == "diverged", ["val_loss", "readout_norm"]]
    assert unknown.isna().all(axis=None)
    assert (
        table.loc[table["status"] == "failed", "error"].str.contains(
            "lr=-1: must be a finite number > 0"
        )
    ).all()
    for job in table["folder"]:
        assert (folder / str(job) / ".hydra" / "config.yaml").exists()


def test_a_sweep_prints_progress_and_a_summary_and_draws(sweep: Swept) -> None:
    folder, done = sweep
    assert "[6/6]" in done.stdout
    assert "best learning rates by val_loss" in done.stdout
    assert "2 completed, 2 diverged, 2 failed" in done.stdout
    assert (folder / "lr_transfer.png").stat().st_size > 10_000


def test_a_sweep_with_failed_jobs_exits_non_zero(sweep: Swept) -> None:
    assert sweep[1].returncode == 1


def test_optional_loggers_and_callbacks_compose_with_a_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = ["logger=tensorboard", "callbacks=lr_monitor", "scheduler=cosine"]
    logged = "trainer.log_every_n_steps=5"
    done = train_here(capfd, *SMALL, "width=16", *chosen, logged, f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("events.out.*"))
    lr = pd.read_csv(tmp_path / "metrics.csv")["lr-AdamW/pg1"].dropna().to_numpy()
    assert len(lr) == 4
    assert (np.diff(lr) < 0).all()


@pytest.mark.slow
def test_wandb_is_offline_unless_asked(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    done = train(*SMALL, "width=8", "logger=wandb", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_swept_keys_are_those_of_the_command_line_over_those_of_the_config() -> None:
    task = [
        "lr=1,2,3,4,5",
        "seed=range(0,3)",
        "max_steps=4",
        "+model.init_std=choice(1,2)",
        "width=[8,16]",
    ]
    config = {
        "sweeper": {"params": {"batch_size": "8,16", "lr": "1,2,3"}},
        "overrides": {"task": task},
    }
    found = swept_keys(OmegaConf.create({"hydra": config}))
    assert found == {"batch_size": 2, "lr": 5, "seed": 3, "model.init_std": 2}


def fake_results() -> pd.DataFrame:
    """Two widths, three lrs, two seeds: a parabola in log lr; one seed diverges at the largest lr
    of width 16."""
    rows = []
    for width, optimum in ((8, 1.0), (16, 0.1)):
        for lr in (0.1, 1.0, 10.0):
            for seed in (0, 1):
                diverged = (width, lr, seed) == (16, 10.0, 1)
                loss = 1 + math.log10(lr / optimum) ** 2 + 0.1 * seed
                identity = {"width": width, "lr": lr, "seed": seed}
                identity |= {"parametrization": "mup", "optimizer": "adamw"}
                outcome = {"status": "completed", "steps": 5, "train_loss": loss, "val_loss": loss}
                if diverged:
                    outcome |= {"status": "diverged", "val_loss": math.nan}
                rows.append(identity | outcome | {"val_accuracy": 0.5, "seconds": 1.0})
    return pd.DataFrame(rows)


def test_the_best_lr_is_that_of_the_mean_over_seeds() -> None:
    table = best(fake_results())
    assert table["width"].tolist() == [8, 16]
    assert table["lr"].tolist() == [1.0, 0.1]
    assert table["val_loss"].tolist() == pytest.approx([1.05, 1.05])
    assert table["at_edge"].tolist() == [False, True]


def test_a_seed_that_diverged_makes_its_lr_no_candidate() -> None:
    table = curves(fake_results()).set_index(["width", "lr"])
    assert table.loc[(16, 10.0), "mean"] == math.inf
    assert table.loc[(8, 10.0), ["min", "max", "seeds"]].tolist() == pytest.approx([2, 2.1, 2])


def test_other_swept_keys_make_curves_of_their_own() -> None:
    table = pd.concat([fake_results().assign(batch_size=b) for b in (32, 64)])
    assert best(table)[["width", "batch_size"]].drop_duplicates().shape[0] == 4


def test_the_figure_draws_what_the_table_says() -> None:
    figure = plot_hyperparameter_transfer(
        pd.concat([fake_results(), fake_results().assign(parametrization="sp")])
    )
    assert [axis.get_title() for axis in figure.axes] == ["muP", "SP"]
    axis = figure.axes[0]
    lines = [line.get_xydata() for line in axis.lines if len(line.get_xydata())]
    np.testing.assert_allclose(lines[0], [[0.1, 2.05], [1, 1.05], [10, 2.05]])
    np.testing.assert_allclose(
        lines[1], [[0.1, 1.05], [1, 2.05]]
    )  # the lr that diverged is left out
    stars = axis.collections[-1].get_offsets()
    np.testing.assert_allclose(np.asarray(stars), [[1, 1.05], [0.1, 1.05]])
    assert (axis.get_xscale(), axis.get_xlabel(), axis.get_ylabel()) == (
        "log",
        "learning rate",
        "validation loss",
    )
    with pytest.raises(ValueError, match="no completed run"):
        plot_hyperparameter_transfer(fake_results().assign(status="diverged"))


def test_results_are_rebuilt_from_the_folders_in_the_order_of_jobs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no job left a result"):
        collect(tmp_path)
    for job in (10, 9, 0):
        (tmp_path / str(job)).mkdir()
        write_result(
            tmp_path / str(job),
            row_of(str(job), val_loss=math.nan) | {"width": job},
        )
    table = collect(tmp_path)
    assert table["width"].tolist() == [0, 9, 10]
    assert table["val_loss"].isna().all()
    assert not list(tmp_path.glob("*/.result*"))  # nothing half-written is left


def losses_by_lr(experiment: str, folder: Path, *overrides: str) -> pd.DataFrame:
    """Mean losses over eight seeds: rows (parametrization, width), columns lr."""
    sweep = ["-m", "hydra/launcher=stacked", f"experiment={experiment}", "seed=range(0,8)"]
    done = train(*sweep, f"hydra.sweep.dir={folder}", *overrides)
    assert done.returncode == 0, done.stderr
    return curves(pd.read_csv(folder / "results.csv")).pivot(
        index=["parametrization", "width"], columns="lr", values="mean"
    )


def assert_transfer(losses: pd.DataFrame) -> None:
    """Check that one lr costs at most 5 % of the loss at every width from 32 up under muP only.

    SP's best lr falls as width grows.
    """
    mup, sp = losses.loc["mup"].loc[32:], losses.loc["sp"].loc[32:]
    assert mup.le(1.05 * mup.min(axis=1), axis=0).all(axis=0).any(), mup
    assert not sp.le(1.05 * sp.min(axis=1), axis=0).all(axis=0).any(), sp
    optima = sp.idxmin(axis=1)
    assert optima.is_monotonic_decreasing, sp
    assert optima.iloc[-1] <= optima.iloc[0] / 4


@pytest.mark.slow
def test_the_demo_on_digits_shows_transfer(tmp_path: Path) -> None:
    assert_transfer(losses_by_lr("lr_transfer", tmp_path))


@pytest.mark.slow
def test_on_mnist_one_lr_serves_every_width_under_mup_and_not_under_sp(
    real_data: Path, tmp_path: Path
) -> None:
    """3 hidden layers of sigmoid units, batch 64, 100 steps, Adam, widths 4 to 256."""
    losses = losses_by_lr("lr_transfer_mnist", tmp_path, f"data.root={real_data}")
    assert_transfer(losses)
    assert losses.loc[("mup", 256)].min() <= 0.5


@pytest.mark.parametrize(
    ("parametrization", "code"),
    [pytest.param("mulinear", 0, marks=pytest.mark.slow), ("sp", 1)],
)
def test_a_coordinate_check_ends_with_a_verdict_and_an_exit_code(
    parametrization: str, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    theory = [f"parametrization={parametrization}", "optimizer=adam"]
    grid = ["width=128,256,512", "seed=0,1"]
    multipliers = ["model.input_mult=0.125", "model.output_mult=0.0625"]
    folder = f"hydra.sweep.dir={tmp_path}"
    done = train_here(capfd, "-m", "experiment=coord_check", *theory, *grid, *multipliers, folder)
    assert done.returncode == code, done.stdout + done.stderr
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["passed"] is (code == 0)
    assert verdict["checked"] == len(verdict["rows"]) == 45 + 5  # 5 parts
    assert {
        "kind",
        "name",
        "t",
        "slope",
        "ci_low",
        "ci_high",
        "low",
        "high",
        "zero",
        "verdict",
        "reason",
    } <= set(verdict["rows"][0])
    failed = {(row["kind"], row["name"]) for row in verdict["rows"] if row["verdict"] == "fail"}
    assert failed >= ({("output", "readout"), ("update", "layers.1.weight")} if code else set())
    of_failures, _, _ = done.stdout.partition("alignment exponents")
    assert ("layers.1.weight" in of_failures) is bool(code)
    rows = pd.read_csv(tmp_path / "coord_check.csv")
    assert rows.groupby(["width", "seed"]).ngroups == 6
    assert (tmp_path / "coord_check.png").stat().st_size > 10_000


def test_update_norms_of_heterogeneous_widths(
    real_mnist: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = train_here(
        capfd,
        "-m",
        "experiment=update_norms",
        f"data.root={real_mnist}",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "update_norms.csv")
    assert table.groupby("parametrization").size().to_dict() == {
        "sp": 9, "absolute/groups": 9, "absolute/multipliers": 9,
    }  # fmt: skip
    spread = table.groupby("parametrization")[["frobenius", "rms_to_rms"]].agg(
        lambda column: column.max() / column.min()
    )
    assert (
        spread.loc["absolute/groups", "rms_to_rms"] < 5 < spread.loc["absolute/groups", "frobenius"]
    )
    groups, multipliers = (
        table[table["parametrization"] == f"absolute/{v}"] for v in ("groups", "multipliers")
    )
    np.testing.assert_allclose(
        multipliers["rms_to_rms"], groups["rms_to_rms"], rtol=0.1
    )  # the same effect
    assert set(pd.read_csv(tmp_path / "correlations.csv")["parametrization"]) == {
        *table["parametrization"],
        "all",
    }
    assert (tmp_path / "update_norms.png").exists()


def test_update_norms_of_simplified_shampoo(
    real_mnist: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = train_here(
        capfd,
        "-m",
        "experiment=update_norms_shampoo",
        f"data.root={real_mnist}",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "update_norms.csv")
    plain, rescaled = (
        table[table["optimizer"] == f"shampoo_svd/{variant}"] for variant in ("all", "rescaled")
    )
    assert len(plain) == len(rescaled) == 9
    np.testing.assert_allclose(plain["spectral"], 0.01, rtol=1e-4)
    np.testing.assert_allclose(rescaled["rms_to_rms"], 0.01, rtol=1e-4)
    rank = (plain["frobenius"] / plain["spectral"]) ** 2
    np.testing.assert_allclose(rank, rank.round(), rtol=1e-3)
    assert rank.iloc[-1].round() == 9  # the gradients of ten logits add up to 0


def test_a_report_can_be_made_again_from_the_folders(sweep: Swept) -> None:
    folder, _ = sweep
    before = (folder / "results.csv").read_text()
    (folder / "results.csv").unlink()
    with pytest.raises(SystemExit) as end:
        main(["report", str(folder)])
    assert end.value.code == 1  # jobs had failed
    assert (folder / "results.csv").read_text() == before
