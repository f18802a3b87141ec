"""The command line around a run: what Hydra must know beforehand, and the exit code."""

import json
import os
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mupl.identity import RESULT_FILE, register_resolvers
from mupl.parametrization.tables import TABLES
from mupl.training.clear_errors import clear_errors
from mupl.training.keys import wandb_key_is_set
from mupl.training.overrides import CONF

OPEN_KEYS = ("tune",)
OPEN = DictConfig({}, flags={"struct": False})
DIVERGED = 3  # exit code of a single run whose loss was not finite; bad input has 1


def train_from_command_line() -> None:
    """Train as the arguments of the command line say: one run, or with -m a sweep."""
    register()
    with clear_errors():
        _main()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _main(cfg: DictConfig) -> float | None:
    # torch and lightning: not needed for --help or a wrong key
    from mupl.training.run import run

    # inside too, as Hydra would print a report of its own around an error that leaves a job
    with clear_errors():
        objective = run(cfg)
    _exit_if_diverged()
    return objective


def _exit_if_diverged() -> None:
    """Exit with `DIVERGED` after a single run that diverged; a sweep has it in its table."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN:
        return
    file = Path(hydra_config.runtime.output_dir, RESULT_FILE)
    if json.loads(file.read_text())["status"] == "diverged":
        sys.exit(DIVERGED)


def register() -> None:
    """Tell Hydra of what conf/ needs but does not hold: configs and names of folders."""
    register_configs()
    register_resolvers()
    OmegaConf.register_new_resolver("wandb_offline", _wandb_offline, replace=True)
    OmegaConf.register_new_resolver("wandb_mode", _wandb_mode, replace=True)


def _wandb_offline() -> bool:
    return not wandb_key_is_set()


def _wandb_mode(offline: bool) -> str:
    """Return the mode that W&B is to be begun in: what Lightning says comes too late for it."""
    return "offline" if offline else os.environ.get("WANDB_MODE", "online")


def register_configs() -> None:
    """Add `parametrization=NAME` for each rule table, which needs no file then, and open keys.

    Below an open key a command line adds keys without a "+".
    """
    store = ConfigStore.instance()
    store.store(name="open_keys", node=OmegaConf.create(dict.fromkeys(OPEN_KEYS, OPEN)))
    for name in TABLES:
        config = {
            "_target_": "mupl.parametrization.rules.get_parametrization",
            "name": name,
            # glob on parameter names -> cells of the table, e.g. {readout.*: {mult: 1}}
            "overrides": {},
            # name -> {param_filter: glob or globs, scale: number or cell}
            "lr_adjustment_groups": {},
        }
        store.store(group="parametrization", name=name, node=config)
