"""What a multirun says while it runs and when it ends."""

import inspect
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from mupl.analysis.transfer import best, curve_keys
from mupl.errors import ConfigError
from mupl.figures.look import Look, looking
from mupl.figures.transfer import plot_hyperparameter_transfer
from mupl.identity import write_result
from mupl.report.common import conclude, save_figure, select
from mupl.sweep.callback import SweepReport
from mupl.sweep.plan import asks_for
from mupl.sweep.reports import REPORTS, get_report
from mupl.sweep.results import collect
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
        ("coordinates", "must be one of ablation, carried, coordinate_check, hyperparameter_"),
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


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"format": "gif"}, "figure.format=gif: must be of png, pdf, svg"),
        ({"size": "wide"}, "figure.size=wide: must be inches"),
        ({"size": [1, 2, 3]}, "figure.size=[1, 2, 3]: must be inches"),
        ({"size": -3}, "figure.size=-3: must be inches"),
        ({"font": ""}, "figure.font=: must be a font and points"),
    ],
)
def test_a_wrong_look_of_figures_is_one_clear_line_before_any_training(
    figure: dict[str, object], words: str, tmp_path: Path
) -> None:
    config = multirun(tmp_path)
    config.figure = figure
    with pytest.raises(SystemExit) as end:
        SweepReport("tests.test_report.says").on_multirun_start(config)
    assert str(end.value.code).startswith(f"error: {words}")


def test_figures_are_written_as_the_config_asks(tmp_path: Path) -> None:
    figures = {}
    for size in (3.0, 6.0):
        look = Look.of({"format": ["pdf", "svg"], "size": [size, 2.0], "font": "serif 7"})
        with looking(look):
            save_figure(tmp_path / "lr.png", plot_hyperparameter_transfer, results())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lr.pdf", "lr.svg"]
        figures[size] = (tmp_path / "lr.svg").read_text()
    assert "7px" in figures[3.0]
    assert "serif" in figures[3.0]
    widths = [float(re.search(r'width="([\d.]+)pt"', text)[1]) for text in figures.values()]  # type: ignore[index]
    assert widths[1] - widths[0] == pytest.approx(3 * 72, rel=0.3)  # legends keep their size


def test_a_font_that_is_not_installed_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with looking(Look.of({"font": "nowhere 9"})):
        for name in ("lr.png", "again.png"):
            save_figure(tmp_path / name, plot_hyperparameter_transfer, results())
    assert capfd.readouterr().err.count("note: font 'nowhere': none of that name") == 1
    assert not caplog.records


def test_a_wrong_report_ends_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = ["-m", *SMALL, "width=8,16", f"{KEY}=transfers", f"hydra.sweep.dir={tmp_path}"]
    done = train_here(capfd, *sweep)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {KEY}=transfers: must be one of ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*/result.json"))


def test_every_module_of_reports_has_the_report_of_its_name() -> None:
    assert "hyperparameter_transfer" in REPORTS
    assert "common" not in REPORTS
    for name in REPORTS:
        taken = list(inspect.signature(get_report(name)).parameters)
        assert taken[:3] == ["sweep_dir", "metric", "where"]
        assert set(taken[3:]) <= {"expect"}


def test_the_names_of_reports_are_known_without_importing_one() -> None:
    code = (
        "import sys; from mupl.sweep.reports import REPORTS;"
        "print(sorted({'seaborn', 'matplotlib', 'pandas', 'mupl.report'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("launcher", "left"), [("BasicLauncher", ["20", "10"]), ("StackedLauncher", [])]
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
    begun, *lines = capsys.readouterr().out.splitlines()
    assert begun == f"4 jobs in {tmp_path}"
    assert [line.partition(" (")[0] for line in lines] == [
        f"[{i}/4] lr={i}: completed val_loss 0.5" for i in (1, 2, 3, 4)
    ]
    assert [line.partition(" (")[2] for line in lines if "(" in line] == [
        f"about {seconds} s left)" for seconds in left
    ]


def write_job(folder: Path, job: str) -> None:
    setting = {"width": 8, "lr": 0.1, "seed": 0, "parametrization": "mup", "optimizer": "adamw"}
    write_result(folder, row_of(job, **setting))


def test_copies_and_jobs_of_another_sweep_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, job in [("a1", "a1"), ("b2", "b2"), ("a1.bak", "a1"), ("old", "c3")]:
        write_job(tmp_path / folder, job)
    assert collect(tmp_path)["folder"].tolist() == ["a1", "b2"]
    line = "left out, as copies or jobs of another sweep: a1.bak (of job a1), old (of job c3)\n"
    assert capsys.readouterr().out == line


def test_where_folders_have_other_names_each_job_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, job in [("0", "a1"), ("1", "b2"), ("1.bak", "b2")]:
        write_job(tmp_path / folder, job)
    assert collect(tmp_path)["folder"].tolist() == ["0", "1"]
    line = "left out, as copies or jobs of another sweep: 1.bak (of job b2)\n"
    assert capsys.readouterr().out == line


def test_hundreds_of_failed_jobs_are_not_hundreds_of_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.DataFrame({"folder": range(300), "status": "failed", "error": "no memory"})
    assert conclude(table, tmp_path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 43
    assert lines[1] == "failed: job 0: no memory"
    assert lines[-2:] == [
        f"and 260 more: {tmp_path / 'results.csv'}",
        "rerun=failed trains again what failed",
    ]


def test_a_command_asks_for_the_jobs_that_have_its_values() -> None:
    table = pd.DataFrame(
        [(8, 0.1, 0, "sgd", None), (8, "abc", 0, "sgd", None), (8, 0.01, 1, "sgd", "[1, 2]")],
        columns=["width", "lr", "seed", "optimizer", "keep"],
    )

    def asked(*task: str, **params: str) -> list[bool]:
        hydra = {"sweeper": {"params": params}, "overrides": {"task": list(task)}}
        plan = OmegaConf.create({"width": 8, "seed": 0, "lr": 1, "depth": 2, "hydra": hydra})
        return asks_for(plan, table).tolist()

    assert asked("lr=0.1,1e-2", "seed=0,1") == [True, False, True]
    assert asked("lr=abc,1e-2") == [False, True, False]  # the seed is 0
    assert asked("optimizer=adam,sgd", "lr='abc'") == [False, True, False]
    assert asked("seed=range(2)", "lr=interval(0.1,1)") == [True] * 3
    assert asked("seed=range(2)", lr="0.1,0.01") == [True, False, True]
    assert asked("seed=range(2)", "keep=[1,2],[3]", "lr=${depth}") == [False, False, True]
    assert asked("seed=range(2)", "~keep", "batch=glob(*)") == [True] * 3
    assert asked("width=[8,8],16", "seed=range(2)") == [False] * 3


def test_a_word_that_a_failed_job_has_among_numbers_is_not_compared() -> None:
    rows = [("a", 0.1, "completed"), ("b", 4.0, "completed"), ("c", "abc", "failed")]
    table = pd.DataFrame(rows, columns=["folder", "lr", "status"])
    assert select(table, "lr < 2")["folder"].tolist() == ["a"]
    assert select(table, "status == 'failed'")["lr"].tolist() == ["abc"]


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
