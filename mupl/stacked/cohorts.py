"""Which jobs of a halving are compared with which, and their losses at its rungs.

A cohort is the jobs of one shape. It may be several stacks, on several devices, and a stack may
begin when another has come to a rung. So the losses are written down, in the folder of each job,
and a stack passes a rung when all jobs of its cohort have come there. A sweep that is killed and
begun again must compare the same jobs, so the cohorts are written down too.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mupl.files import write_atomically
from mupl.identity import RESULT_FILE
from mupl.tuning.halving import Halving

FILE = "cohorts.json"  # in the folder of the stacks' states: a list of the ids of each cohort
LOSSES_FILE = "rungs.json"  # in a job's folder: its losses, by metric and step
ALONE = "runs alone"  # in place of a loss: the job comes to no rung, nobody is to wait for it


class Rival(NamedTuple):
    """A job of a cohort, as the stacks of the others know it."""

    id: str
    folder: Path
    config: dict[str, Any]  # what it trains


def read_cohorts(states: Path) -> list[list[str]]:
    """Return the ids of the jobs of each cohort of a sweep."""
    file = states / FILE
    if not file.exists():
        return []
    cohorts: list[list[str]] = json.loads(file.read_text())
    return cohorts


def remember_cohorts(states: Path, cohorts: Iterable[list[str]]) -> None:
    """Add cohorts to a sweep's."""
    states.mkdir(parents=True, exist_ok=True)
    known = read_cohorts(states)
    new = [ids for ids in cohorts if ids not in known]
    if new:
        write_atomically(states / FILE, json.dumps(known + new, indent=1))


def losses_of(folder: Path) -> dict[str, float]:
    """Return the losses at rungs that a job has in its folder."""
    try:
        losses: dict[str, float] = json.loads((folder / LOSSES_FILE).read_text())
    except FileNotFoundError:
        return {}
    return losses


def remember_loss(folder: Path, rung: str, loss: float) -> None:
    """Write a job's loss at a rung.

    The first one stays, as others may have been dropped by it already.
    """
    losses = losses_of(folder)
    if rung not in losses:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / LOSSES_FILE, json.dumps({**losses, rung: loss}))


def delete_losses(folder: Path) -> None:
    """Delete the losses of a job that starts anew."""
    (folder / LOSSES_FILE).unlink(missing_ok=True)


def late(rivals: Iterable[Rival], rung: str) -> list[Rival]:
    """Return the jobs of a cohort that have not come to a rung, and still may."""
    found = []
    for rival in rivals:
        losses = losses_of(rival.folder)
        is_done = (rival.folder / RESULT_FILE).exists()
        if not (rung in losses or ALONE in losses or is_done):
            found.append(rival)
    return found


def left(rivals: Sequence[Rival], halving: Halving, rungs: Sequence[str]) -> set[str]:
    """Return the ids of the jobs of a cohort that go on after these rungs, by their losses there.

    Args:
        rungs: the names of all rungs up to one that all jobs of the cohort have come to.
    """
    alive = list(rivals)
    for number, rung in enumerate(rungs):
        there = []
        losses = []
        for rival in alive:
            loss = losses_of(rival.folder).get(rung)
            if loss is not None:
                there.append(rival)
                losses.append(loss)
        configs = [rival.config for rival in there]
        lost = halving.losers(number, configs, losses)
        alive = [rival for i, rival in enumerate(there) if i not in lost]
    return {rival.id for rival in alive}
