"""Who trains which job: processes, on one machine or several, may share the folder of one sweep.

A process that trains a job has a claim on it: a file in the job's folder that says who it is, and
that it touches every few seconds. So the others know that the job is taken, and that it is free
again once its process was killed or its machine is gone.
"""

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from mupl.files import is_running, write_atomically
from mupl.identity import RESULT_FILE

CLAIM_FILE = "running.json"
LOCK_FILE = ".claims.lock"  # beside the jobs' folders; held while claims are taken, not longer
HEARTBEAT = 5.0  # seconds between two touches of a claim
POLL = 1.0  # seconds between two looks at the jobs that other processes train
LOST = 60.0  # seconds after which a claim that nobody touched counts no more


class Holder(NamedTuple):
    """The process that trains a job."""

    host: str
    pid: int
    since: float  # seconds since 1970

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def claimed(folders: Sequence[Path]) -> Iterator[list[Path]]:
    """Claim the jobs in these folders, of one sweep, until the block ends.

    Yields the folders of those that no other process has a claim on.
    """
    taken = _take(folders)
    ended = threading.Event()
    heart = threading.Thread(target=_touch, args=(taken, ended), daemon=True)
    heart.start()
    try:
        yield taken
    finally:
        ended.set()
        heart.join()
        for folder in taken:
            (folder / CLAIM_FILE).unlink(missing_ok=True)


def holder(folder: Path) -> Holder | None:
    """Return the living process that trains the job in this folder, or None."""
    file = folder / CLAIM_FILE
    try:
        claim = Holder(**json.loads(file.read_text()))
        age = _now(folder) - file.stat().st_mtime
    except (OSError, ValueError, TypeError):  # there is none, or it is no claim
        return None
    if age > LOST:
        return None
    if claim.host == socket.gethostname() and not is_running(claim.pid):
        return None
    return claim


def waiting_for(others: Sequence[Holder]) -> str:
    """Say for whose jobs a process waits."""
    return f"waiting for {len(others)} jobs of {', '.join(sorted({str(o) for o in others}))}"


def delete_useless(sweep_dir: Path) -> None:
    """Delete the claims of processes that were killed when their jobs had ended already."""
    for file in sweep_dir.glob(f"*/{CLAIM_FILE}"):
        if (file.parent / RESULT_FILE).exists() and holder(file.parent) is None:
            file.unlink(missing_ok=True)


def _take(folders: Sequence[Path]) -> list[Path]:
    """Write a claim into each folder that has no living holder, and return these folders."""
    taken = []
    claim = Holder(socket.gethostname(), os.getpid(), time.time())
    for parent in {folder.parent for folder in folders}:
        parent.mkdir(parents=True, exist_ok=True)
        # The lock ends with its process, however that ends
        with FileLock(parent / LOCK_FILE):
            for folder in folders:
                if folder.parent == parent and holder(folder) is None:
                    folder.mkdir(exist_ok=True)
                    write_atomically(folder / CLAIM_FILE, json.dumps(claim._asdict()))
                    taken.append(folder)
    return taken


def _touch(folders: Sequence[Path], ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        for folder in folders:
            try:
                os.utime(folder / CLAIM_FILE)
            except FileNotFoundError:  # somebody deleted the folder
                continue


def _now(folder: Path) -> float:
    """The time by the clock of the disk, which may be another machine's."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
