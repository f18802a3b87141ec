"""The files from which stacks go on."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mupl.files import write_atomically
from mupl.stacked.stack import Stack

DISK = 1e9  # bytes a second, a guess until the first state is saved
SAVING = 0.05  # share of the time that may be spent on saving states


class State:
    """The file from which a stack goes on, and beside it the ids of its members.

    Attributes:
        validation: what `Stack.evaluate` gave, by updates done.
    """

    def __init__(self, folder: Path, ids: Sequence[str], stack: Stack, save_every: float) -> None:
        self._ids, self._stack, self._folder, self._every = list(ids), stack, folder, save_every
        self.file = folder / f"{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:12]}.pt"
        self._saved_at, self._cost = time.perf_counter(), stack.nbytes() / DISK
        self.validation: dict[int, dict[str, list[float]]] = {}

    def load(self) -> None:
        """Go on from where a state of the stack's members was saved, if there is one."""
        for file, ids in saved(self._folder):
            if set(self._ids) <= set(ids):
                state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
                chosen = [ids.index(i) for i in self._ids]
                self._stack.load_state_dict(state["stack"], chosen)
                for k, row in state["validation"].items():
                    self.validation[k] = {
                        name: [values[i] for i in chosen] for name, values in row.items()
                    }
                return

    def save_sometimes(self) -> None:
        if time.perf_counter() - self._saved_at >= max(self._every, self._cost / SAVING):
            self.save()

    def save(self) -> None:
        started = time.perf_counter()
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        torch.save({"stack": self._stack.state_dict(), "validation": self.validation}, partial)
        partial.replace(self.file)
        write_atomically(self.file.with_suffix(".json"), json.dumps(self._ids))
        self._saved_at = time.perf_counter()
        self._cost = self._saved_at - started


def saved(folder: Path) -> list[tuple[Path, list[str]]]:
    """The states in a folder, each with the ids of its members; a part of a stack that was halved before the stack."""
    states = [
        (file.with_suffix(".pt"), json.loads(file.read_text()))
        for file in sorted(folder.glob("*.json"))
    ]
    return sorted(states, key=lambda state: len(state[1]))


def delete_state(file: Path) -> None:
    """Remove a state."""
    for suffix in (".json", ".pt"):  # in this order: a state without its members' ids is not found
        file.with_suffix(suffix).unlink(missing_ok=True)
