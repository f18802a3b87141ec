"""The files from which stacks go on."""

import hashlib
import math
import os
import socket
import time
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch

from mupl.errors import ConfigError
from mupl.files import delete_stale_partials, set_aside
from mupl.identity import changes, listed
from mupl.stacked.stack import Stack

DISK = 1e9  # bytes a second: a guess until the first checkpoint is saved
ANEW = "its jobs start anew"
HOST = socket.gethostname()
SAVING = 0.05  # share of the time that may be spent on saving

Validation = dict[int, dict[str, list[float]]]  # by updates done and name: one value a member


class Checkpoint:
    """The file from which a stack goes on.

    Args:
        folder: of the checkpoints of all stacks of the sweep.
        ids: of the stack's jobs, in the order of its members.
        provenance: by what they are trained; see `mupl.identity.provenance`.
        save_every: seconds.

    Attributes:
        file: the last one that was saved, or None. Its name ends with the checksum of its content.
        validation: what `Stack.evaluate` gave, by updates done.
        rungs: how many of a halving's have dropped jobs.
    """

    def __init__(
        self,
        folder: Path,
        ids: Sequence[str],
        provenance: Mapping[str, Any],
        stack: Stack,
        save_every: float,
    ) -> None:
        self._ids = list(ids)
        self._provenance = dict(provenance)
        self._stack = stack
        self._folder = folder
        self._save_every = save_every
        self._name = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:12]
        self._saved_at = time.perf_counter()
        self._seconds_to_save = stack.nbytes() / DISK
        self.file: Path | None = None
        self.validation: Validation = {}
        self.rungs = 0

    def load(self) -> None:
        """Go on from the smallest checkpoint that holds all members, if there is one.

        One that does not fit these members is set aside, and they start anew.
        """
        for file, ids, _ in checkpoints(self._folder):
            if set(self._ids) <= set(ids):
                try:
                    self._load(file, [ids.index(job) for job in self._ids])
                except (KeyError, ValueError, RuntimeError) as error:
                    set_aside(file, f"it does not fit its jobs: {error}", ANEW)
                    continue
                return

    def _load(self, file: Path, members: Sequence[int]) -> None:
        saved = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        self._stack.load_state_dict(saved["stack"], members)
        self.validation = validation_of(saved["validation"], members)
        self.rungs = saved["rungs"]
        if len(members) == len(saved["ids"]):
            self.file = file

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
            "provenance": self._provenance,
            "stack": self._stack.state_dict(),
            "validation": self.validation,
            "rungs": self.rungs,
        }
        partial = self._folder / f".{self._name}.{HOST}.{os.getpid()}"
        try:
            # a file of Python's, as torch would not say that the disk is full
            with partial.open("wb") as opened:
                torch.save(content, opened)
            file = partial.rename(self._folder / f"{self._name}-{checksum(partial)}.pt")
        except OSError as error:
            error.filename = error.filename or str(partial)
            raise
        finally:
            partial.unlink(missing_ok=True)
        self.delete()
        self.file = file
        self._saved_at = time.perf_counter()
        self._seconds_to_save = self._saved_at - started

    def release(self) -> None:
        """Let go of the stack, so that its memory is free; nothing can be saved any more."""
        del self._stack

    def delete(self) -> None:
        """Delete the last one that was saved."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
            self.file = None


def validation_of(validation: Validation, members: Sequence[int]) -> Validation:
    """Return the part of a `Checkpoint.validation` that belongs to some members."""
    part: Validation = {}
    for k, row in validation.items():
        part[k] = {name: [values[i] for i in members] for name, values in row.items()}
    return part


class Saved(NamedTuple):
    """A checkpoint."""

    file: Path
    ids: list[str]
    provenance: dict[str, Any]


def checkpoints(folder: Path) -> list[Saved]:
    """The checkpoints in a folder, of the smallest stacks first.

    So a half of a stack that went out of memory comes before the whole one, and of two of one
    stack, of which the older could not be deleted, the newer. A damaged file is set aside.
    """
    found = []
    for file in sorted(folder.glob("*.pt"), key=_age):
        try:
            if not file.stem.endswith(f"-{checksum(file)}"):
                raise ValueError("its name does not end with the checksum of its content")
            saved = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
            found.append(Saved(file, saved["ids"], saved["provenance"]))
        except FileNotFoundError:  # deleted by another process, whose stack is trained
            continue
        except (OSError, ValueError, KeyError, UnpicklingError) as error:
            set_aside(file, str(error), ANEW)
    return sorted(found, key=lambda saved: len(saved.ids))


def begun(folder: Path, missing: Container[str], rerun: str) -> list[list[str]]:
    """The stacks that were begun earlier and have missing jobs, as the ids of all their jobs.

    Args:
        rerun: what becomes of those begun by another version of the code; see
            `mupl.identity.finished_jobs`.

    Raises:
        ConfigError: if there is such a stack, and `rerun` is missing.
    """
    # of this machine only: whether a process of another runs is not known here
    delete_stale_partials(folder, f".*.{HOST}.*")
    stacks: list[list[str]] = []
    seen: set[str] = set()
    for saved in checkpoints(folder):
        if not any(job in missing and job not in seen for job in saved.ids):
            continue
        changed = [] if rerun in ("keep", "failed") else changes(saved.provenance)
        if changed and rerun != "changed":
            raise ConfigError(
                f"{saved.file}: this stack was begun with another version of {listed([changed])}: "
                "say rerun=changed to train it anew, or rerun=keep to go on"
            )
        if changed:
            saved.file.unlink(missing_ok=True)
            continue
        stacks.append(saved.ids)
        seen.update(saved.ids)
    return stacks


def delete_checkpoints(folder: Path, useless: Callable[[list[str]], bool]) -> None:
    """Delete the checkpoints of stacks that are `useless`, as the ids of their jobs say."""
    for saved in checkpoints(folder):
        if useless(saved.ids):
            saved.file.unlink(missing_ok=True)


def _age(file: Path) -> float:
    """Seconds since it was written, or infinity if it is gone."""
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def checksum(file: Path) -> str:
    """A digest of a file's content, which the name of a checkpoint ends with."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]
