"""The files from which stacks go on."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mupl.stacked.stack import Stack

DISK = 1e9  # bytes a second: a guess until the first checkpoint is saved
SAVING = 0.05  # share of the time that may be spent on saving


class Checkpoint:
    """The file from which a stack goes on.

    Args:
        folder: of the checkpoints of all stacks of the sweep.
        ids: of the stack's jobs, in the order of its members.
        save_every: seconds.

    Attributes:
        validation: what `Stack.evaluate` gave, by updates done.
    """

    def __init__(
        self,
        folder: Path,
        ids: Sequence[str],
        stack: Stack,
        save_every: float,
    ) -> None:
        self._ids = list(ids)
        self._stack = stack
        self._folder = folder
        self._save_every = save_every
        digest = hashlib.sha256(" ".join(ids).encode()).hexdigest()
        self.file = folder / f"{digest[:12]}.pt"
        self._saved_at = time.perf_counter()
        self._seconds_to_save = stack.nbytes() / DISK
        self.validation: dict[int, dict[str, list[float]]] = {}

    def load(self) -> None:
        """Go on from the smallest checkpoint that holds all members, if there is one."""
        for file, ids in checkpoints(self._folder):
            if set(self._ids) <= set(ids):
                self._load(file, [ids.index(job) for job in self._ids])
                return

    def _load(self, file: Path, members: Sequence[int]) -> None:
        saved = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        self._stack.load_state_dict(saved["stack"], members)
        for k, row in saved["validation"].items():
            self.validation[k] = {}
            for name, values in row.items():
                self.validation[k][name] = [values[i] for i in members]

    def save_sometimes(self) -> None:
        """Save if `save_every` seconds have passed, and saving takes at most 5 % of the time."""
        pause = max(self._save_every, self._seconds_to_save / SAVING)
        if time.perf_counter() - self._saved_at >= pause:
            self.save()

    def save(self) -> None:
        """Save the state; the file is there whole or not at all."""
        started = time.perf_counter()
        self._folder.mkdir(parents=True, exist_ok=True)
        content = {
            "ids": self._ids,
            "stack": self._stack.state_dict(),
            "validation": self.validation,
        }
        partial = self.file.with_suffix(".partial")
        torch.save(content, partial)
        partial.replace(self.file)
        self._saved_at = time.perf_counter()
        self._seconds_to_save = self._saved_at - started


def checkpoints(folder: Path) -> list[tuple[Path, list[str]]]:
    """The checkpoints in a folder, each with the ids of its jobs; the smallest first.

    So a half of a stack that went out of memory comes before the whole one.
    """
    found = []
    for file in sorted(folder.glob("*.pt")):
        saved = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        found.append((file, saved["ids"]))
    return sorted(found, key=lambda entry: len(entry[1]))
