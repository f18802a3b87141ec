"""Sweeps that are hurt at a chosen moment, and compared with others that were not."""

import errno
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mupl.sweep.results import collect
from tests.commands import ROOT, SMALL, command, environment

# Audit events that change files, and the path among their arguments that is looked at
CHANGES = {"open": 0, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.truncate": 0}
REPORT = "hydra.callbacks.sweep_report.report=tests.commands.table_only"
GRID = ["-m", *SMALL, "width=8,16", "seed=0,1", "trainer.val_check_interval=10", REPORT]
LAUNCHERS = {"basic": [], "stacked": ["hydra/launcher=stacked", "hydra.launcher.save_every=0"]}


class Ended(NamedTuple):
    """How a process ended: its exit code (minus the signal's number if one killed it) and words."""

    code: int
    out: str
    err: str


def arguments(launcher: str, folder: Path, *more: str) -> list[str]:
    return [*GRID, *LAUNCHERS[launcher], f"hydra.sweep.dir={folder}", *more]


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(),
        stdout=pipe,
        stderr=pipe,
        text=True,
        **options,
    )


def end(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)


def run(*arguments: str) -> Ended:
    return end(start(*arguments))


def fork(arguments: list[str], log: Path, before: Callable[[], None] = lambda: None) -> Ended:
    """Run the command in a fork of this process, which has imported everything already.

    Args:
        before: is called in the fork first.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for stream, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{log}.{name}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), stream)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = _train(arguments, before)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    out, err = (Path(f"{log}.{name}").read_text() for name in ("out", "err"))
    return Ended(os.waitstatus_to_exitcode(status), out, err)


def _train(arguments: list[str], before: Callable[[], None]) -> int:
    os.chdir(ROOT)
    sys.argv = command(*arguments)[1:]
    try:
        before()
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def at_change(number: int, folder: Path, fault: Callable[[str], None]) -> Callable[[], None]:
    """Return what makes `fault` happen at a folder's file changes from that number (from 0) on."""

    def install() -> None:
        seen = 0

        def hook(event: str, values: tuple[Any, ...]) -> None:
            nonlocal seen
            if event not in CHANGES or str(folder) not in str(values[CHANGES[event]]):
                return
            if event == "open" and not set("wax+") & set(str(values[1])):
                return
            seen += 1
            if seen > number:
                fault(event)

        sys.addaudithook(hook)

    return install


def kill(event: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def full(event: str) -> None:
    if event in ("open", "os.mkdir"):  # a full disk lets files be renamed and removed
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def table(folder: Path) -> pd.DataFrame:
    """Return a sweep's results without what no two sweeps have in common."""
    return collect(folder).drop(columns=["seconds", "folder"])


def difference(whole: Path, resumed: Path) -> str:
    """Say how a sweep that was hurt differs from one that was not, or "" if it does not."""
    if not table(whole).equals(table(resumed)):
        return "the tables differ"
    files = [file.relative_to(whole) for file in whole.glob("*/**/*.csv")]
    found = [file.relative_to(resumed) for file in resumed.glob("*/**/*.csv")]
    if sorted(files) != sorted(found):
        return f"other files: {sorted(set(files) ^ set(found))}"
    for file in files:
        if (whole / file).read_bytes() != (resumed / file).read_bytes():
            return f"{file} differs"
    return litter(resumed)


def litter(folder: Path) -> str:
    """Name the files that a sweep should not leave."""
    left = [*folder.glob("states/*"), *folder.rglob("running.json"), *folder.rglob(".*.[0-9]*")]
    return f"litter: {sorted(str(file.relative_to(folder)) for file in left)}" if left else ""
