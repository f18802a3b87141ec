"""Which jobs of a halving are compared with which: those that were put into one stack.

A sweep that is killed and begun again must compare the same jobs, so they are written down.
"""

import json
from collections.abc import Container, Iterable
from pathlib import Path

from mupl.files import write_atomically

FILE = "cohorts.json"  # in the folder of the stacks' states: a list of the ids of each cohort


def read_cohorts(states: Path) -> list[list[str]]:
    """Return the ids of the jobs of each cohort of a sweep."""
    file = states / FILE
    if not file.exists():
        return []
    cohorts: list[list[str]] = json.loads(file.read_text())
    return cohorts


def remember_cohorts(states: Path, cohorts: Iterable[list[str]]) -> None:
    """Add cohorts to those of a sweep."""
    states.mkdir(parents=True, exist_ok=True)
    known = read_cohorts(states)
    new = [ids for ids in cohorts if ids not in known]
    if new:
        write_atomically(states / FILE, json.dumps(known + new, indent=1))


def unfinished_cohorts(
    states: Path, missing: Container[str], begun: Iterable[list[str]]
) -> list[list[str]]:
    """Return the cohorts that start anew: those with missing jobs that no checkpoint has."""
    in_begun = {id for ids in begun for id in ids}
    found = []
    for ids in read_cohorts(states):
        if any(id in missing and id not in in_begun for id in ids):
            found.append(ids)
            in_begun.update(ids)
    return found
