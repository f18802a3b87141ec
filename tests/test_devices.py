"""Sweeps on several devices: a process for each, and results as on one."""

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mupl.errors import ConfigError
from mupl.stacked import devices as devices_module
from mupl.stacked.cohorts import LOSSES_FILE, Rival, late, left, losses_of, remember_loss
from mupl.stacked.devices import ProcessEnded, _Lines, environments, on_devices
from mupl.stacked.executors import Submission
from mupl.stacked.train import _build_stack
from mupl.tuning.halving import Halving
from tests.commands import IGNORED, ROOT, Done, command, environment, train_here
from tests.test_launcher import TABLE_ONLY

pytestmark = IGNORED

EXACT = ["max_steps=20", "base_width=8", "trainer=cpu", "trainer.precision=64-true"]
GRID = ["lr=0.01,0.03,0.1,0.3,1e30", "seed=0,1", "optimizer=sgd"]
RUNGS = "halving.rungs=[0.2,0.5]"
Sweep = Callable[..., Done]


@pytest.fixture
def sweep(capfd: pytest.CaptureFixture[str]) -> Sweep:
    def start(folder: Path, *arguments: str) -> Done:
        given = ["hydra/launcher=stacked", TABLE_ONLY, *EXACT, *arguments]
        done = train_here(capfd, "-m", *given, f"hydra.sweep.dir={folder}")
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return start


def results(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv").drop(columns="seconds")


def ended(submissions: list[Submission]) -> None:
    while not all(submission.has_ended() for submission in submissions):
        time.sleep(0.01)


def test_a_device_is_all_that_its_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "_visible_gpus", lambda: ["3", "GPU-5a"])
    seen = [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "GPU-5a"}]
    assert environments("all", on_gpu=True) == seen
    assert environments(1, on_gpu=True) == seen[:1]
    with pytest.raises(ConfigError, match=r"devices=3: must be at most 2, the GPUs of this"):
        environments(3, on_gpu=True)


def test_without_gpus_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert environments(4, on_gpu=False) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert len(environments("all", on_gpu=False)) == 1


def test_tasks_run_in_processes_that_outlive_errors(capfd: pytest.CaptureFixture[str]) -> None:
    with on_devices([{"CUDA_VISIBLE_DEVICES": "7"}]) as submit:
        name = submit(partial(os.getenv, "CUDA_VISIBLE_DEVICES"))
        printed = submit(partial(print, "a whole line"))
        wrong = submit(partial(int, "many"))
        killed = submit(partial(os._exit, 9))
        after = submit(os.getpid)
        ended([name, printed, wrong, killed, after])
        assert name.result() == "7"
        with pytest.raises(ValueError, match="many"):
            wrong.result()
        with pytest.raises(ProcessEnded, match="ended with exit code 9"):
            killed.result()
        assert after.result() != os.getpid()
    assert capfd.readouterr().out == "a whole line\n"


def test_an_exception_ends_what_is_trained() -> None:
    sent: list[Submission] = []

    def interrupted() -> None:
        with on_devices([{}]) as submit:
            sent.extend([submit(partial(time.sleep, 0.2)), submit(partial(time.sleep, 1000))])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(submission.has_ended() for submission in sent)


def test_lines_are_handed_on_whole() -> None:
    sent: list[str] = []
    lines = _Lines(sent.append)
    print("step", 1, file=lines)
    lines.write("half")
    lines.write(" a line\nand")
    assert sent == ["step 1\n", "half a line\n"]


def test_jobs_of_a_cohort_wait_for_each_other(tmp_path: Path) -> None:
    rivals = []
    for name in "abcd":
        (tmp_path / name).mkdir()
        rivals.append(Rival(name, tmp_path / name, {"lr": name, "seed": 0}))
    for loss, rival in enumerate(rivals[:2]):
        remember_loss(rival.folder, "first", loss)
        remember_loss(rival.folder, "first", 9.0)  # the first one stays
    assert losses_of(tmp_path / "b") == {"first": 1}
    assert [rival.id for rival in late(rivals, "first")] == ["c", "d"]
    remember_loss(tmp_path / "c", "runs alone", 0)
    (tmp_path / "d/result.json").touch()
    assert late(rivals, "first") == []
    halving = Halving((0.1, 0.2), (0.5, 0.5), None, "val_loss")
    assert left(rivals, halving, []) == set("abcd")
    assert left(rivals, halving, ["first"]) == {"a"}  # of those that came to it


def test_several_stacks_drop_what_one_drops(sweep: Sweep, tmp_path: Path) -> None:
    sweep(tmp_path / "one", *GRID, "width=8", RUNGS)
    three = "hydra.launcher.max_members=3"
    done = sweep(tmp_path / "several", *GRID, "width=8", RUNGS, three)
    assert "stack 4 of 4" in done.stdout
    pd.testing.assert_frame_equal(
        results(tmp_path / "one"), results(tmp_path / "several"), rtol=1e-10
    )
    assert not list(tmp_path.glob("*/states/*.pt"))
    assert len(list(tmp_path.glob(f"several/*/{LOSSES_FILE}"))) == 10


def test_a_setting_that_diverged_does_not_go_on(sweep: Sweep, tmp_path: Path) -> None:
    # rates that learn nothing: their losses lie above ln(10), which weights of 0 have
    grid = ["lr=1e-9,1e-8,1e30,1e31", "seed=1", "parametrization=sp", "width=8", "optimizer=sgd"]
    sweep(tmp_path, *grid, "halving.rungs=[0.2]")
    table = results(tmp_path).set_index("lr")
    assert list(table["status"]) == ["completed", "completed", "diverged", "diverged"]
    assert (table["val_loss"].iloc[:2] > math.log(10)).all()


def test_a_stack_shrinks_once_half_of_it_is_lost(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def counted(jobs: Any) -> Any:
        sizes.append(len(jobs))
        return _build_stack(jobs)

    monkeypatch.setattr("mupl.stacked.train._build_stack", counted)
    grid = ["lr=1e-3,1e-2,0.03,0.1,0.3", "width=8", "optimizer=sgd"]
    sweep(tmp_path / "halved", *grid, "halving.rungs=[0.2,0.4,0.6,0.8]")
    assert sizes == [5, 2, 1]  # 3 are left after the first rung, and 1 + log2(5) = 3.3
    halved = results(tmp_path / "halved")
    assert sorted(halved["steps"]) == [4, 4, 8, 12, 20]
    sweep(tmp_path / "whole", *grid)
    both = results(tmp_path / "whole").merge(halved[halved["status"] == "completed"], on="lr")
    assert (both["val_loss_x"] == both["val_loss_y"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("rungs", ["halving.rungs=[]", RUNGS])
def test_two_devices_leave_what_one_leaves(rungs: str, sweep: Sweep, tmp_path: Path) -> None:
    grid = [*GRID, "width=8,16", rungs]
    sweep(tmp_path / "one", *grid)
    done = sweep(tmp_path / "two", *grid, "hydra.launcher.devices=2")
    assert "stack 3 of 3: 10 jobs" in done.stdout  # the two halves of the larger width come first
    pd.testing.assert_frame_equal(results(tmp_path / "one"), results(tmp_path / "two"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_two_devices_that_are_interrupted_go_on(number: signal.Signals, tmp_path: Path) -> None:
    grid = [*EXACT, *GRID, "width=8", "max_steps=1000", "hydra.launcher.save_every=0"]
    start = ["-m", "hydra/launcher=stacked", TABLE_ONLY, "hydra.launcher.devices=2", *grid]
    given = command(*start, f"hydra.sweep.dir={tmp_path / 'killed'}")
    options: dict[str, Any] = {"cwd": ROOT, "env": environment(), "text": True}
    process = subprocess.Popen(given, stderr=subprocess.PIPE, **options)
    while not list(tmp_path.glob("killed/states/*.pt")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), err
    while list(tmp_path.glob("killed/*/running.json")) and number == signal.SIGKILL:
        time.sleep(0.1)  # its processes save their states and end by themselves
    assert list(tmp_path.glob("killed/states/*.pt"))
    again = subprocess.run(given, check=False, capture_output=True, **options)
    assert again.returncode == 0, again.stderr
    whole = command(*start, f"hydra.sweep.dir={tmp_path / 'whole'}")
    subprocess.run(whole, check=True, **options)
    pd.testing.assert_frame_equal(results(tmp_path / "killed"), results(tmp_path / "whole"))
