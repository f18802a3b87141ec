"""The options of `hydra/launcher=stacked`."""

from dataclasses import dataclass, field
from typing import Any

from mupl.errors import ConfigError
from mupl.stacked.executors import EXECUTORS


@dataclass
class Options:
    """`hydra.launcher.*`, with the defaults.

    Args:
        devices: of this machine that train stacks at the same time, each in a process of its own: a
            number, or "all".
        max_members: of one stack; None for as many as memory holds and are fast.
        memory_gb: for one stack; None for what is free.
        save_every: seconds between checkpoints, or more where saving would take more than 5 % of
            the time.
        executor: "submitit_local", "submitit_slurm" or "ray" sends stacks there; None trains them
            on this machine.
        resources: of one stack's task, in the words of submitit or Ray.

    Raises:
        ConfigError: on a value that cannot be.
    """

    devices: Any = 1
    max_members: int | None = None
    memory_gb: float | None = None
    save_every: float = 30.0
    executor: str | None = None
    resources: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.executor is not None and self.executor not in EXECUTORS:
            raise ConfigError(
                f"hydra.launcher.executor={self.executor}: "
                f"must be null or one of {', '.join(EXECUTORS)}"
            )
        is_count = type(self.devices) is int and self.devices >= 1
        if self.devices != "all" and not is_count:
            raise ConfigError(
                f"hydra.launcher.devices={self.devices}: must be a whole number >= 1, or all; "
                "CUDA_VISIBLE_DEVICES says which"
            )
        if self.devices != 1 and self.executor is not None:
            raise ConfigError(
                f"hydra.launcher.devices={self.devices}: are this machine's, and "
                f"hydra.launcher.executor={self.executor} sends each stack to a task: leave out one"
            )
        if self.max_members is not None and self.max_members < 1:
            raise ConfigError(
                f"hydra.launcher.max_members={self.max_members}: must be a whole number >= 1"
            )
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ConfigError(f"hydra.launcher.memory_gb={self.memory_gb}: must be above 0")
        if not self.save_every >= 0:
            raise ConfigError(f"hydra.launcher.save_every={self.save_every}: must be >= 0 seconds")
        if self.resources and self.executor is None:
            raise ConfigError(
                "hydra.launcher.resources: are an executor's; say hydra.launcher.executor="
                f"{'|'.join(EXECUTORS)}"
            )
