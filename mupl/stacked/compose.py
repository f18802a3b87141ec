"""Compose the configs of a sweep's jobs in a tenth of the time.

All that this package takes from private parts is here: Hydra's `get_overrides_dirname`, its config
loader's `_apply_overrides_to_config` and `repository`, and how OmegaConf quotes texts in YAML.
"""

import pickle
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import get_omega_conf_dumper

represent_text = get_omega_conf_dumper().str_representer  # quotes texts that look like numbers


class SweepConfigLoader:
    """Hydra's config loader, but the files are read once for all jobs of the same config groups.

    The other overrides of a job only set values. They are applied to a copy, and the config is the
    one that Hydra makes, in a tenth of its 0.09 s.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._parser = OverridesParser.create(config_loader=loader)
        self._is_group = cache(self._is_config_group)
        # by the overrides that choose groups; pickled, as that is copied in a tenth of the time
        self._composed: dict[tuple[str, ...], bytes] = {}
        # by all overrides: what the sweeper composed, to see that it can be, before the launcher
        # asks for it
        self._checked: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The config of one job, which is made once for the sweeper and the launcher."""
        key = tuple(sweep_overrides)
        if key in self._checked:
            return self._checked.pop(key)
        config = self._load(master_config, sweep_overrides)
        self._checked[key] = config
        return config

    def _load(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        overrides = self._parser.parse_overrides(sweep_overrides)
        choices = [o for o in overrides if self._chooses(o)]
        values = [o for o in overrides if not self._chooses(o)]
        texts = [str(o.input_line) for o in choices]
        key = tuple(texts)
        if key not in self._composed:
            loaded = self._loader.load_sweep_config(master_config, texts)
            self._composed[key] = pickle.dumps(loaded)
        config: DictConfig = pickle.loads(self._composed[key])
        self._loader._apply_overrides_to_config(values, config)
        task = [o for o in overrides if not o.is_hydra_override()]
        dirname = config.hydra.job.config.override_dirname
        with open_dict(config.hydra):
            config.hydra.overrides.task = [o.input_line for o in task]
            config.hydra.job.override_dirname = get_overrides_dirname(
                task,
                exclude_keys=dirname.exclude_keys,
                item_sep=dirname.item_sep,
                kv_sep=dirname.kv_sep,
            )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _chooses(self, override: Override) -> bool:
        """Whether it chooses a config group, or belongs to Hydra itself."""
        return override.is_hydra_override() or self._is_group(override.key_or_group)

    def _is_config_group(self, key: str) -> bool:
        return bool(self._loader.repository.get_group_options(key, ObjectType.CONFIG))
