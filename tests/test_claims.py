"""Processes that share a sweep's folder: who has which job, and for how long."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mupl import claims
from mupl.claims import CLAIM_FILE, claimed, holder
from mupl.cli import main
from mupl.identity import write_result
from mupl.signals import ENDING, Interrupted, noted, raised
from mupl.sweep.listing import list_sweeps
from mupl.sweep.status import status

HERE = socket.gethostname()
DEAD = 2**22 + 1  # more than any process has


def claim(folder: Path, host: str = HERE, pid: int = 1, age: float = 0) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / CLAIM_FILE
    file.write_text(json.dumps({"host": host, "pid": pid, "since": 0.0}))
    touched = time.time() - age
    os.utime(file, (touched, touched))


def test_a_job_belongs_to_one_process_while_it_is_trained(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    with claimed(folders) as mine:
        assert mine == folders
        found = holder(folders[0])
        assert found is not None
        assert (found.host, found.pid) == (HERE, os.getpid())
        assert str(found) == f"process {os.getpid()} on {HERE}"
        with claimed([*folders, tmp_path / "c"]) as others:
            assert others == [tmp_path / "c"]
        assert holder(tmp_path / "c") is None
    assert holder(folders[0]) is None
    assert not list(tmp_path.rglob(CLAIM_FILE))


@pytest.mark.parametrize(
    ("host", "pid", "age", "held"),
    [
        (HERE, os.getpid(), 0, True),
        (HERE, 1, 0, True),  # of another user
        (HERE, DEAD, 0, False),
        (HERE, os.getpid(), claims.LOST + 10, False),
        ("elsewhere", DEAD, 0, True),
        ("elsewhere", DEAD, claims.LOST + 10, False),
    ],
    ids=["own", "another user's", "dead", "old", "elsewhere", "elsewhere, old"],
)
def test_a_claim_counts_while_its_process_lives(
    host: str, pid: int, age: float, held: bool, tmp_path: Path
) -> None:
    claim(tmp_path / "a", host, pid, age)
    assert (holder(tmp_path / "a") is not None) is held
    with claimed([tmp_path / "a"]) as mine:
        assert bool(mine) is not held


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"host": 1}', "\x00"])
def test_a_damaged_claim_counts_as_none(text: str, tmp_path: Path) -> None:
    claim(tmp_path / "a")
    (tmp_path / "a" / CLAIM_FILE).write_text(text)
    with claimed([tmp_path / "a"]) as mine:
        assert mine == [tmp_path / "a"]


def test_a_claim_is_kept_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    with claimed([tmp_path / "a"]):
        os.utime(tmp_path / "a" / CLAIM_FILE, (0, 0))
        deadline = time.monotonic() + 10
        while holder(tmp_path / "a") is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert holder(tmp_path / "a") is not None


def test_the_job_of_a_process_that_was_killed_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from mupl.claims import claimed\n"
        "with claimed([pathlib.Path(sys.argv[1])]): print('taken', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    with claimed([tmp_path / "a"]) as mine:
        assert mine == []
    process.kill()
    process.communicate()
    with claimed([tmp_path / "a"]) as mine:
        assert mine == [tmp_path / "a"]


def test_status_counts_jobs_by_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = {"steps": 1, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5}
    for name in ("a", "b"):
        write_result(tmp_path / name, ended | {"job": name, "status": "completed"})
    write_result(tmp_path / "c", {"job": "c", "status": "failed", "error": "out of memory"})
    claim(tmp_path / "d", pid=DEAD)
    with claimed([tmp_path / "e"]), pytest.raises(SystemExit) as end:
        main(["status", str(tmp_path)])
    assert not end.value.code
    assert capsys.readouterr().out.splitlines() == [
        "3 ended: 2 completed, 1 failed",
        f"1 running in process {os.getpid()} on {HERE}",
        "1 begun by a process that is gone",
    ]


def test_status_says_how_a_sweep_goes_on_that_was_stopped(tmp_path: Path) -> None:
    command = ["data=digits", "width=8,16", "lr=0.1,0.2", f"hydra.sweep.dir={tmp_path}"]
    plan = {"overrides": {"hydra": ["hydra.mode=MULTIRUN", command[-1]], "task": command[:-1]}}
    plan["sweeper"] = {"_target_": "hydra.BasicSweeper", "params": None}
    OmegaConf.save({"hydra": plan}, tmp_path / "multirun.yaml")
    for name in ("a", "b", "states"):
        (tmp_path / name).mkdir()
    assert str(status(tmp_path)).splitlines() == [
        "0 ended",
        "2 begun by a process that is gone",
        f"it goes on by its command (it asked for 4 jobs): python train.py -m {command[-1]} "
        "data=digits width=8,16 lr=0.1,0.2",
    ]
    (row,) = list_sweeps(tmp_path)
    assert (row["completed"], row["best"]) == (0, "no job has ended; see mupl status")


def test_status_of_no_sweep_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no job of a sweep was begun there"):
        main(["status", str(tmp_path)])


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_raised_or_noted(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, raised():
        signal.raise_signal(number)
    assert caught.value.number == number
    with noted() as arrived:
        assert arrived() == 0
        signal.raise_signal(number)
        assert arrived() == number
        assert signal.getsignal(number) == before  # a second one has its usual effect
    assert signal.getsignal(number) == before
