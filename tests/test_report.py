"""What a multirun says while it runs and when it ends."""

import os
import time
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from mupl.analysis.transfer import best, curve_keys
from mupl.errors import ConfigError
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.identity import write_result
from mupl.sweep.callback import SweepReport
from mupl.sweep.reports import REPORTS, get_report
from tests.commands import SMALL, row_of, train_here

KEY = "hydra.callbacks.sweep_report.report"


def says(sweep_dir: Path, metric: str) -> int:
    print(f"{metric} of {sweep_dir.name}")
    return 3


def wrong_folder(sweep_dir: Path, metric: str) -> int:
    raise ConfigError(f"{sweep_dir.name}: empty")


def stops(sweep_dir: Path, metric: str) -> int:
    raise KeyboardInterrupt


def breaks(sweep_dir: Path, metric: str) -> int:
    raise ZeroDivisionError


def multirun(folder: Path, launcher: str = "BasicLauncher", number: int = -1) -> DictConfig:
    """The config of a sweep of four learning rates, or of its job of that number."""
    task = [] if number < 0 else [f"lr={number + 1}"]
    hydra = {
        "sweeper": {"_target_": "x.BasicSweeper", "params": {"lr": "1,2,3,4"}},
        "launcher": {"_target_": f"x.{launcher}"},
        "overrides": {"task": task},
        "sweep": {"dir": str(folder)},
        "runtime": {"output_dir": str(folder / str(number))},
        "job": {"num": number},
    }
    return OmegaConf.create({"hydra": hydra, "metric": "val_loss"})


@pytest.mark.parametrize(
    ("report", "code", "out", "err"),
    [
        ("says", 3, "val_loss of sweep\n", ""),
        ("wrong_folder", "error: sweep: empty", "", ""),
        ("breaks", 1, "", "ZeroDivisionError"),
    ],
)
def test_what_a_report_says_and_ends_with(
    report: str, code: object, out: str, err: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    callback = SweepReport(f"tests.test_report.{report}")
    callback.on_multirun_start(multirun(tmp_path / "sweep"))
    with pytest.raises(SystemExit) as end:
        callback.on_multirun_end(multirun(tmp_path / "sweep"))
    said = capfd.readouterr()
    assert end.value.code == code
    assert out in said.out
    assert err in said.err
    assert bool(said.err) is bool(err)


def test_an_interrupt_of_a_report_is_one_of_the_sweep(tmp_path: Path) -> None:
    callback = SweepReport("tests.test_report.stops")
    callback.on_multirun_start(multirun(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        callback.on_multirun_end(multirun(tmp_path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("coordinates", "must be one of hyperparameter_transfer, coordinate_check, "),
        ("nowhere.report", "No module named 'nowhere'"),
        ("tests.test_report.missing", "has no attribute 'missing'"),
    ],
)
def test_a_wrong_report_is_one_clear_line_before_any_training(
    name: str, words: str, tmp_path: Path
) -> None:
    callback = SweepReport(name)
    with pytest.raises(SystemExit) as end:
        callback.on_multirun_start(multirun(tmp_path))
    assert str(end.value.code).startswith(f"error: {KEY}={name}: ")
    assert words in str(end.value.code)


def test_a_wrong_report_ends_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = ["-m", *SMALL, "width=8,16", f"{KEY}=transfers", f"hydra.sweep.dir={tmp_path}"]
    done = train_here(capfd, *sweep)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {KEY}=transfers: must be one of ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*/result.json"))


def test_every_report_is_there() -> None:
    for name in REPORTS:
        assert get_report(name).__name__ == name


@pytest.mark.parametrize(
    ("launcher", "left"), [("BasicLauncher", ["30", "20", "10"]), ("StackedLauncher", [])]
)
def test_the_time_left_is_that_of_jobs_that_run_one_by_one(
    launcher: str,
    left: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start)
    callback = SweepReport("tests.test_report.says")
    callback.on_multirun_start(multirun(tmp_path, launcher))
    for i in range(4):
        monkeypatch.setattr(time, "time", lambda i=i: start + 10 * (i + 1))
        file = tmp_path / str(i) / "result.json"
        file.parent.mkdir()
        write_result(file.parent, row_of(str(i), val_loss=0.5))
        os.utime(file, (start + 5, start + 5))
        callback.on_job_end(multirun(tmp_path, launcher, i), job_return=None)  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        f"[{i}/4] lr={i}: completed val_loss 0.5" for i in (1, 2, 3, 4)
    ]
    assert [line.partition(" (")[2] for line in lines if "(" in line] == [
        f"{seconds} s left)" for seconds in left
    ]


def results() -> pd.DataFrame:
    """Two sweeps of lr in one folder, at two depths; the other columns are the same everywhere."""
    rows = []
    for depth in (2, 3):
        for lr in (0.1, 1.0, 10.0):
            loss = depth + abs(lr - 1)
            rows.append(
                {
                    "width": 8,
                    "lr": lr,
                    "seed": 0,
                    "parametrization": "mup",
                    "optimizer": "adamw",
                    "model": "mlp",
                    "data": "digits",
                    "depth": depth,
                    "status": "completed",
                    "val_loss": loss,
                }
            )
    return pd.DataFrame(rows)


def test_what_is_the_same_everywhere_tells_no_curves_apart() -> None:
    assert curve_keys(results()) == ["parametrization", "optimizer", "width", "depth"]
    assert best(results())[["depth", "lr"]].to_numpy().tolist() == [[2, 1], [3, 1]]
    figure = plot_hyperparameter_transfer(results())
    assert [axis.get_title() for axis in figure.axes] == ["depth=2", "depth=3"]
    missing = results().replace({"depth": {2: None}})
    assert len(plot_hyperparameter_transfer(missing).axes) == 2  # a missing value is one too
