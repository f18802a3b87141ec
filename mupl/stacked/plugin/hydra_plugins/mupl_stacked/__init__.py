"""`hydra/launcher=stacked`; the work is in `mupl.stacked.launcher`.

It is here because Hydra takes launchers from this namespace only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from mupl.stacked.options import Options


class StackedLauncher(Launcher):
    """Trains the jobs of a multirun in stacks.

    It takes the arguments of `mupl.stacked.options.Options`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = Options(**options)

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        config: DictConfig,
    ) -> None:
        from mupl.stacked.compose import SweepConfigLoader

        loader: Any = SweepConfigLoader(hydra_context.config_loader)
        hydra_context.config_loader = loader
        self._context = hydra_context
        self._task_function = task_function
        self._config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        # here, as Hydra imports its plugins for every command
        from mupl.stacked.launcher import Sweep

        sweep = Sweep(
            self._options,
            self._context,
            self._task_function,
            self._config,
            job_overrides,
            initial_job_idx,
        )
        return sweep.run()


@dataclass
class StackedLauncherConf(Options):
    """What Hydra makes a launcher with these options from."""

    _target_: str = "hydra_plugins.mupl_stacked.StackedLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="stacked", node=StackedLauncherConf, provider="mupl"
)
