"""`hydra/launcher=stacked`: Hydra takes launchers from this namespace only; the work is in `mupl.sweep.launcher`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mupl.garbage import no_garbage


class StackedLauncher(Launcher):
    """Trains the jobs of a multirun in stacks; see `mupl.sweep.launcher.Options` for its arguments."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from mupl.sweep.compose import SweepConfigLoader

        loader: Any = SweepConfigLoader(hydra_context.config_loader)
        hydra_context.config_loader = loader  # the sweeper's checks use it too
        self._context, self._task_function, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        with no_garbage():
            from mupl.sweep.launcher import Options, launch  # torch: only now

        options = Options(**self._options)
        return launch(options, self._context, self._task_function, self._config, job_overrides, initial_job_idx)


@dataclass
class StackedLauncherConf:
    """The fields of `mupl.sweep.launcher.Options`, and their defaults."""

    _target_: str = "hydra_plugins.mupl_stacked.StackedLauncher"
    max_members: int | None = None  # of one stack; null: as many as memory holds and are fast
    memory_gb: float | None = None  # for one stack; null: what is free
    save_every: float = 30.0  # seconds between saved states, or more where that would take 5 % of the time
    through: str | None = None  # submitit_local | submitit_slurm | ray: sends stacks there; null: trains them here
    resources: dict[str, Any] = field(default_factory=dict)  # of one stack's task, in the words of submitit or ray


ConfigStore.instance().store(group="hydra/launcher", name="stacked", node=StackedLauncherConf, provider="mupl")
