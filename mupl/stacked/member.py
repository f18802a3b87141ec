"""A job of a sweep, as a member of a stack."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mupl.identity import RESULT_FILE, write_result
from mupl.stacked.cohorts import Rival

if TYPE_CHECKING:
    from mupl.training.setup import Setup


@dataclass(eq=False)
class Job:
    """A run of a sweep.

    Args:
        number: Hydra's.
        id: see `mupl.identity.job_id`.
        row: all but the outcome of its row of results; see `mupl.identity.job_row`.
        folder: where its files go.
        compose: returns its config, resolved and without Hydra's part. A sweep may have thousands
            of jobs that are done already: those need none.
    """

    number: int
    id: str
    row: dict[str, Any]
    folder: Path
    compose: Callable[["Job"], DictConfig]

    @cached_property
    def config(self) -> DictConfig:
        """Its config, resolved and without Hydra's part."""
        return self.compose(self)

    @cached_property
    def setup(self) -> "Setup":
        """Its setup, without weights.

        Raises:
            ConfigError: on bad input.
            NotStackable: if its data, its model or its optimizer cannot be stacked.
        """
        # imports torch, for which a sweep that is done need not wait
        from mupl.stacked.describe import describe

        return describe(self.config, self.row["config"])

    def is_done(self) -> bool:
        """Whether it has a result."""
        return (self.folder / RESULT_FILE).exists()

    @property
    def rival(self) -> Rival:
        """What the other jobs of its cohort must know of it."""
        return Rival(self.id, self.folder, self.row["config"])

    def write(self, outcome: dict[str, Any]) -> None:
        """Write its row of results."""
        write_result(self.folder, self.row | outcome)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process; the setup is described anew there."""
        sent = vars(self) | {"config": self.config}
        return {name: value for name, value in sent.items() if name not in ("compose", "setup")}
