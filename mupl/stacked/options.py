"""The options of `hydra/launcher=stacked`."""

from dataclasses import dataclass, field
from typing import Any

from mupl.errors import ConfigError
from mupl.stacked.executors import EXECUTORS


@dataclass
class Options:
    """`hydra.launcher.*`, with the defaults.

    Raises:
        ConfigError: on a value that cannot be.
    """

    max_members: int | None = None  # of one stack; null: as many as memory holds and are fast
    memory_gb: float | None = None  # for one stack; null: what is free
    save_every: float = (
        30.0  # seconds between saved states, or more where that would take 5 % of the time
    )
    through: str | None = (
        None  # submitit_local | submitit_slurm | ray: sends stacks there; null: trains them here
    )
    resources: dict[str, Any] = field(
        default_factory=dict
    )  # of one stack's task, in the words of submitit or ray

    def __post_init__(self) -> None:
        if self.through is not None and self.through not in EXECUTORS:
            raise ConfigError(
                f"hydra.launcher.through={self.through}: must be null or of {', '.join(EXECUTORS)}"
            )
        if self.max_members is not None and self.max_members < 1:
            raise ConfigError(
                f"hydra.launcher.max_members={self.max_members}: must be a whole number >= 1"
            )
