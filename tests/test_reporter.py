"""The process that makes a sweep's report."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mupl.errors import ConfigError
from mupl.sweep.reporter import Reporter
from tests.commands import ROOT, environment

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


@pytest.mark.parametrize(
    ("report", "code", "out", "err"),
    [
        ("tests.test_reporter.says", 3, "val_loss of sweep\n", ""),
        ("tests.test_reporter.wrong_folder", 1, "", "error: sweep: empty\n"),
        ("tests.test_reporter.stops", 130, "", ""),
        ("tests.test_reporter.breaks", 1, "", "ZeroDivisionError"),
        ("tests.test_reporter.missing", 1, "", f"error: {KEY}=tests.test_reporter.missing"),
        ("nowhere.report", 1, "", f"error: {KEY}=nowhere.report: No module named 'nowhere'\n"),
    ],
)
def test_what_a_report_says_and_ends_with(
    report: str, code: int, out: str, err: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Reporter(report)(tmp_path / "sweep", "val_loss") == code
    said = capfd.readouterr()
    assert said.out == out
    assert said.err == err if err.endswith("\n") or not err else err in said.err


def test_the_process_ends_with_a_sweep_that_is_killed() -> None:
    text = f"from mupl.sweep.reporter import Reporter; r = Reporter({__name__!r} + '.says')\n"
    text += "print(r._process.pid, flush=True); import time; time.sleep(60)"
    command = [sys.executable, "-c", text]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as sweep:
        assert sweep.stdout is not None
        reporter = int(sweep.stdout.readline())
        os.kill(reporter, 0)  # it is there
        sweep.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (
        Path(f"/proc/{reporter}").exists()
        and "\nState:\tZ" not in Path(f"/proc/{reporter}/status").read_text()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
