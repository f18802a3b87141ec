"""Runs of W&B, TensorBoard and MLflow: one for each run, job and member, which say what it is."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mupl.sweep.results import collect
from tests.commands import SMALL, Done, train, train_anew
from tests.wandb_runs import Run, runs_below

JOBS = [
    *("-m", *SMALL, "optimizer=sgd", "parametrization=sp,mup", "width=8", "lr=0.016,1e30"),
    *("callbacks=coordinates", "callbacks.coordinates.steps=[0,3]", "trainer.log_every_n_steps=5"),
    "hydra.callbacks.sweep_report.report=tests.commands.table_only",
]
LAUNCHERS = [
    "stacked",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("basic", "joblib")),
]
NAMES = {"SP lr=0.016", "SP lr=1e+30", "muP lr=0.016", "muP lr=1e+30"}


@pytest.fixture(scope="module", autouse=True)
def without_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have no key of W&B, whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / "netrc"))
        yield


@pytest.fixture(scope="module", params=LAUNCHERS)
def sweep(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Done]:
    pytest.importorskip("wandb")
    if request.param == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    folder = tmp_path_factory.mktemp(request.param) / "lr_of_digits"
    launcher = f"hydra/launcher={request.param}"
    start = train_anew if request.param == "joblib" else train  # which starts processes itself
    done = start(*JOBS, "logger=wandb", launcher, f"hydra.sweep.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done


def by_name(folder: Path) -> dict[str, tuple[Run, Path]]:
    """Each run of a sweep with the folder of its job; W&B's files are there."""
    found = {}
    for job in folder.glob("*/result.json"):
        (run,) = runs_below(job.parent)
        found[run.name] = run, job.parent
    return found


def test_each_job_is_a_run_of_its_own(sweep: tuple[Path, Done]) -> None:
    folder, _ = sweep
    assert len(runs_below(folder)) == 4
    assert set(by_name(folder)) == NAMES


def test_runs_are_grouped_and_tagged_and_know_their_config(sweep: tuple[Path, Done]) -> None:
    folder, _ = sweep
    for run, job in by_name(folder).values():
        result = json.loads((job / "result.json").read_text())
        assert (run.group, run.project) == ("lr_of_digits", "mupl")
        assert run.tags == ["digits", "mlp", "sgd", result["parametrization"]]
        for key in ("job", "width", "lr", "parametrization", "config", "choices"):
            assert run.config[key] == result[key], key


def test_metrics_are_those_of_the_file_beside_them(sweep: tuple[Path, Done]) -> None:
    folder, _ = sweep
    for run, job in by_name(folder).values():
        table = pd.read_csv(job / "metrics.csv").set_index("step")
        assert "output_l1/layers.0" in table
        for name in table.columns.drop("epoch"):
            if table[name].notna().any():
                here = {step: value for step, value in run.metrics(name).items() if value == value}
                assert here == pytest.approx(table[name].dropna().to_dict(), rel=1e-6), name
        if "1e+30" not in run.name:
            assert list(run.metrics("train_loss")) == [4, 9, 14, 19]


def test_the_parametrization_is_a_table(sweep: tuple[Path, Done]) -> None:
    folder, _ = sweep
    for _, job in by_name(folder).values():
        (file,) = job.rglob("*.table.json")
        table = json.loads(file.read_text())
        expected = pd.read_csv(job / "parametrization.csv")
        assert table["columns"] == list(expected)
        logged = pd.DataFrame(table["data"], columns=table["columns"])
        assert logged["name"].tolist() == expected["name"].tolist()
        assert logged["lr"].tolist() == expected["lr"].tolist()


def test_a_run_ends_with_the_result(sweep: tuple[Path, Done]) -> None:
    folder, _ = sweep
    for name, (run, job) in by_name(folder).items():
        result = json.loads((job / "result.json").read_text())
        assert run.exit_code == 0
        assert run.summary["status"] == result["status"]
        assert run.summary["status"] == ("diverged" if "1e+30" in name else "completed")
        for key in ("steps", "train_loss", "val_loss", "val_accuracy", "seconds"):
            assert run.summary[key] == result[key], key


def test_without_a_key_one_line_says_that_nothing_is_sent(sweep: tuple[Path, Done]) -> None:
    said = (sweep[1].stdout + sweep[1].stderr).splitlines()
    about = [line for line in said if "wandb" in line.lower()]
    note = "no key is set, so that runs stay on this machine; wandb sync sends them"
    assert about == [f"note: logger=wandb: {note}"]


@pytest.mark.slow
def test_a_failed_job_is_a_run_too(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    report = "hydra.callbacks.sweep_report.report=tests.commands.table_only"
    folder = f"hydra.sweep.dir={tmp_path}"
    done = train("-m", *SMALL, "width=8", "lr=0.1,-1", "logger=wandb", report, folder)
    assert done.returncode == 1
    runs = {run.summary["status"]: run for run in runs_below(tmp_path)}
    assert set(runs) == {"completed", "failed"}
    assert runs["failed"].exit_code == 1
    assert "lr=-1" in runs["failed"].summary["error"]


@pytest.mark.slow
def test_a_run_that_is_alone_is_named_after_its_data(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    done = train(*SMALL, "width=8", "lr=0.02", "logger=wandb", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    (run,) = runs_below(tmp_path)
    assert run.name == "digits muP adamw width=8 lr=0.02 base_width=8 max_steps=20 trainer=cpu"
    assert run.group == ""


@pytest.mark.slow
def test_an_unusable_key_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")  # seconds; W&B tries for 90
    done = train(*SMALL, "width=8", "logger=wandb", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "logger.wandb.offline=true" in line


def test_tensorboard_has_settings_and_outcome_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2 as protocol

    done = train(
        *JOBS, "logger=tensorboard", "hydra/launcher=stacked", f"hydra.sweep.dir={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    for _, row in collect(tmp_path).iterrows():
        assert row["folder"].startswith(f"{row['parametrization']}_lr={row['lr']:g}-")
        events = EventAccumulator(str(tmp_path / row["folder"])).Reload()
        found: dict[str, Any] = {}
        for tag, content in events.PluginTagToContent("hparams").items():
            data = protocol.HParamsPluginData.FromString(content)
            found[tag] = data.session_start_info.hparams
        settings = found["_hparams_/session_start_info"]
        assert settings["parametrization"].string_value == row["parametrization"]
        assert settings["lr"].number_value == row["lr"]
        assert settings["status"].string_value == row["status"]
        (loss,) = events.Scalars("end/train_loss")
        is_same = loss.value == pytest.approx(row["train_loss"])
        assert is_same or (math.isnan(loss.value) and row["status"] == "diverged")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own database
def test_mlflow_has_a_run_for_each_job_in_a_file(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="pip install mupl[mlflow]")
    from mlflow.tracking import MlflowClient

    store = f"sqlite:///{tmp_path}/mlflow.db"
    arguments = [f"logger.mlflow.tracking_uri={store}", f"hydra.sweep.dir={tmp_path}/sweep"]
    arguments.append(f"logger.mlflow.artifact_location=file:{tmp_path}/mlruns")
    done = train(*JOBS, "logger=mlflow", *arguments, "hydra/launcher=stacked")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("sweep")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == NAMES
    rows = collect(tmp_path / "sweep")
    for run in runs:
        params = run.data.params
        same = (rows["parametrization"] == params["parametrization"]) & (
            rows["lr"] == float(params["lr"])
        )
        (row,) = rows[same].to_dict("records")
        assert (run.info.status, run.data.tags["status"]) == ("FINISHED", row["status"])
        if row["status"] == "completed":
            assert run.data.metrics["end/val_loss"] == pytest.approx(row["val_loss"])
