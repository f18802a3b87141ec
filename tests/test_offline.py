"""Nothing leaves the machine: runs and sweeps open no connection and look up no name."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, environment

# Writes the attempts of a process and of those that Python starts from it to the file ATTEMPTS
SITE = """
import os
import socket
import sys


def note(event, arguments):
    if event == "socket.connect" and arguments[0].family == socket.AF_UNIX:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        with open(os.environ["ATTEMPTS"], "a") as file:
            print(event, arguments[1:], file=file)


sys.addaudithook(note)
"""
TINY = ["width=8", "base_width=8", "max_steps=2", "trainer=cpu"]


def attempts(folder: Path, *command: str) -> str:
    """The connections that a command tries to open."""
    (folder / "sitecustomize.py").write_text(SITE)
    log = folder / "attempts"
    log.touch()
    variables = environment()
    variables["PYTHONPATH"] = f"{folder}:{variables['PYTHONPATH']}"
    variables["ATTEMPTS"] = str(log)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=variables,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text()


def test_an_attempt_would_be_seen(tmp_path: Path) -> None:
    code = (
        "import contextlib, socket\n"
        "with contextlib.suppress(OSError):\n"
        "    socket.create_connection(('127.0.0.1', 9), timeout=1)"
    )
    seen = attempts(tmp_path, "-c", code)
    assert "socket.getaddrinfo" in seen
    assert "socket.connect" in seen


@pytest.mark.parametrize("launcher", [pytest.param("basic", marks=pytest.mark.slow), "stacked"])
def test_a_sweep_opens_no_connection(launcher: str, tmp_path: Path) -> None:
    sweep = [f"hydra/launcher={launcher}", "lr=0.01,0.1", f"hydra.sweep.dir={tmp_path}/out"]
    assert attempts(tmp_path, "train.py", "-m", *TINY, *sweep) == ""


def test_a_run_opens_no_connection(tmp_path: Path) -> None:
    assert attempts(tmp_path, "train.py", *TINY, f"hydra.run.dir={tmp_path}/out") == ""
