"""What Hydra must know before it composes a config: configs without a file, and resolvers."""

import os
from functools import partial
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from mupl.identity import register_resolvers
from mupl.parametrization.tables import TABLES
from mupl.training.keys import wandb_key_is_set
from mupl.tuning.ladder import in_proportion

OPEN_KEYS = ("tune",)
OPEN = DictConfig({}, flags={"struct": False})
UPDATES = 3  # of a coordinate check whose steps do not say how many


def register() -> None:
    """Tell Hydra of what conf/ needs but does not hold: configs and names of folders."""
    register_configs()
    register_resolvers()
    OmegaConf.register_new_resolver("wandb_offline", _wandb_offline, replace=True)
    OmegaConf.register_new_resolver("wandb_mode", _wandb_mode, replace=True)
    OmegaConf.register_new_resolver("check_steps", _check_steps, replace=True)
    OmegaConf.register_new_resolver("steps_to", _steps_to, replace=True)
    OmegaConf.register_new_resolver("in_proportion", in_proportion, replace=True)


def _check_steps(optimizer: DictConfig) -> ListConfig:
    """Resolve `${check_steps:${optimizer}}`: the steps at which a coordinate check looks."""
    # torch, which other configs do without
    from mupl.optim.registry import optimizer_rules
    from mupl.parametrization.update_kinds import OptimizerRules

    options = {str(key): value for key, value in optimizer.items() if str(key)[0] != "_"}
    options.pop("update_kind", None)
    try:
        rules = optimizer_rules(partial(get_object(optimizer["_target_"]), **options))
    except Exception:  # one that mupl does not know; whether it can be, is said before training
        rules = OptimizerRules(str)
    return ListConfig(rules.check_steps)


def _steps_to(steps: Any) -> int:
    """Resolve `${steps_to:STEPS}`: the number of updates up to the last of a list of steps."""
    listed = list(steps) if OmegaConf.is_list(steps) else []
    if listed and all(type(step) is int and step >= 0 for step in listed):
        return max(listed) + 1
    return UPDATES


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
