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


@pytest.mark.slow
def test_a_sweep_of_the_basic_launcher_opens_no_connection(tmp_path: Path) -> None:
    sweep = ["lr=0.01,0.1", f"hydra.sweep.dir={tmp_path}/out"]
    assert attempts(tmp_path, "train.py", "-m", *TINY, *sweep) == ""


def test_a_run_and_a_stacked_sweep_open_no_connection(tmp_path: Path) -> None:
    """Both in one process, as its imports take longer than they do."""
    run = [*TINY, f"hydra.run.dir={tmp_path}/run"]
    sweep = ["-m", *TINY, "hydra/launcher=stacked", "lr=0.01,0.1"]
    sweep.append(f"hydra.sweep.dir={tmp_path}/sweep")
    code = (
        "import runpy, sys\n"
        f"for arguments in ({run}, {sweep}):\n"
        "    sys.argv = ['train.py', *arguments]\n"
        "    runpy.run_path('train.py', run_name='__main__')"
    )
    assert attempts(tmp_path, "-c", code) == ""
    assert (tmp_path / "run/result.json").exists()
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 2
