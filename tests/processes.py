"""Processes of Python that start in a tenth of a second, as the large libraries are imported.

They are forked from a server that has imported the libraries, and nothing of mupl, once.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

LIBRARIES = ["torch", "lightning.pytorch", "hydra", "pandas"]


class Process:
    """A process that runs a script of Python; it is used as a `subprocess.Popen` is.

    Args:
        command: the script and its arguments.
        cwd: the folder that it runs in.
        env: its environment, of which `PYTHONPATH` is observed too.
    """

    def __init__(self, command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.args = list(command)
        self._written = tempfile.TemporaryDirectory(prefix="process-")
        files = [str(Path(self._written.name, name)) for name in ("out", "err")]
        for file in files:
            Path(file).touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)  # of the first process; later ones have it
        arguments = (self.args, str(cwd), dict(env), files)
        self._process = context.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the number of the signal that killed it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end, and return what was written to stdout and stderr.

        Raises:
            subprocess.TimeoutExpired: if it still runs after so many seconds; it is killed.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        out, err = (Path(self._written.name, name).read_text() for name in ("out", "err"))
        self._written.cleanup()
        return out, err


def run(
    command: Sequence[str], cwd: Path, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a script of Python to its end."""
    process = Process(command, cwd, env)
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _run(command: list[str], cwd: str, env: dict[str, str], files: list[str]) -> None:
    """Be a new process that runs a script, as far as a fork can be one."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), stream.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server ignores it
    path = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path(command[0]).parent), *path]
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
