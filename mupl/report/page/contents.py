"""What a page is about: the runs of one sweep or of several, and the tables beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mupl.sweep.plan import command, job_count, read_plan
from mupl.sweep.results import collect, compared, loss_unit, read_jobs


@dataclass(frozen=True)
class Contents:
    """The runs of a page.

    Args:
        title: of the page.
        results: a row a run, as `mupl.sweep.results.collect` gives them; "folder" is relative to
            `folder`.
        metric: the loss that is compared.
        folder: where tables of the whole sweep lie, such as coord_check.csv.
        jobs: the result.json of each run; none of a table of losses.
        commands: which trained them.
        planned: how many runs the commands ask for; 0 if that is not known.
        notes: lines to be said about the results.
    """

    title: str
    results: pd.DataFrame
    metric: str
    folder: Path
    jobs: Sequence[Mapping[str, Any]] = field(default_factory=list)
    commands: Sequence[str] = field(default_factory=list)
    planned: int = 0
    notes: Sequence[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """Return the unit of the losses; "" if it is not known."""
        return loss_unit(self.jobs)

    def table(self, file: str) -> pd.DataFrame | None:
        """Read a table of the sweep; None if it has none."""
        path = self.folder / file
        # as a whole: in parts, a column of words and gaps has a warning
        return pd.read_csv(path, low_memory=False) if path.exists() else None

    def plain(self, file: str) -> dict[str, Any] | None:
        """Read plain data of the sweep; None if it has none."""
        path = self.folder / file
        return json.loads(path.read_text()) if path.exists() else None

    def job_table(self, folder: str, file: str) -> pd.DataFrame | None:
        """Read a table that a run left; None if it left none."""
        path = self.folder / folder / file
        return pd.read_csv(path) if path.exists() else None


def of_sweep(folder: Path, metric: str) -> Contents:
    """Return the contents of a page on a sweep, or on the sweeps that a folder compares."""
    notes: list[str] = []
    results = collect(folder, notes.append)
    sweeps = compared(folder)
    paths = list(sweeps.values()) or [folder]
    plans = [plan for plan in map(read_plan, paths) if plan is not None]
    title = " and ".join(sweeps) or folder.resolve().name
    return Contents(
        title,
        results,
        metric,
        folder,
        read_jobs(folder, notes.append),
        [command(plan) for plan in plans],
        sum(job_count(plan) for plan in plans),
        list(dict.fromkeys(notes)),
    )
