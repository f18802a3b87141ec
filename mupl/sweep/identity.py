"""Which sweep is which: the name of its folder follows from what it does not sweep."""

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from mupl.identity import config_hash


def sweep_id(config: DictConfig) -> str:
    """Name of a multirun's folder: its experiment or data, along what, and a hash of all that it does not sweep but
    width and seed.

    So a sweep to which a width or a seed is added finds what it did before, and sweeps of different things keep apart.
    """
    choices = config.hydra.runtime.choices
    names = [choices.get("experiment") or choices.get("data"), choices.get("size")]
    name = "_".join(str(choice) for choice in names if choice).replace("/", "_")
    unsaid = {*swept_keys(config), "width", "seed"}
    return f"{name}-{config_hash(config, unsaid)[:8]}"


def swept_keys(config: DictConfig) -> dict[str, int]:
    """The keys that a multirun sweeps, each with its number of values (0: a sweeper draws them from an interval).

    The command line's are over the sweeper's params.
    """
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    task: Any = OmegaConf.to_container(
        config.hydra.overrides.task, resolve=False
    )  # may name keys that only jobs have
    overrides = OverridesParser.create().parse_overrides([*params, *task])
    last_of_key = {o.get_key_element().lstrip("+~"): o for o in overrides}
    swept = {key: o for key, o in last_of_key.items() if o.is_sweep_override()}
    return {
        key: 0 if o.is_interval_sweep() else len(list(o.sweep_string_iterator()))
        for key, o in swept.items()
    }


def _cached_sweep_id(*, _root_: DictConfig) -> str:
    """That of the multirun's own config; the jobs', which would each have another, get its cache from Hydra."""
    cache = OmegaConf.get_cache(_root_).setdefault("sweep_id", {})
    if "" not in cache:
        cache[""] = sweep_id(_root_)
    return cache[""]


OmegaConf.register_new_resolver("sweep_id", _cached_sweep_id, replace=True)
