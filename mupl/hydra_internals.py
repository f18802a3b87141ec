"""All that mupl takes from private parts of Hydra and OmegaConf.

Another minor version may lack them, so pyproject.toml admits one of Hydra, which pins OmegaConf.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import get_overrides_dirname as get_overrides_dirname
from hydra._internal.utils import get_args_parser as get_args_parser
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from omegaconf._utils import get_omega_conf_dumper

if TYPE_CHECKING:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper as BasicSweeper

represent_text = get_omega_conf_dumper().str_representer  # quotes texts that look like numbers


def __getattr__(name: str) -> Any:
    """Import `BasicSweeper` where it is used.

    When Hydra looks for plugins, it executes the modules of its own anew. A class that was imported
    before is another one than theirs, and cannot be instantiated.
    """
    if name == "BasicSweeper":
        from hydra._internal.core_plugins import basic_sweeper

        return basic_sweeper.BasicSweeper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def apply_overrides(loader: Any, overrides: Sequence[Override], config: DictConfig) -> None:
    """Set in a config what overrides say that choose no config group.

    Args:
        loader: Hydra's config loader.
    """
    loader._apply_overrides_to_config(overrides, config)


def is_config_group(loader: Any, key: str) -> bool:
    """Say whether a key of an override is a config group that the loader's search path has."""
    return bool(loader.repository.get_group_options(key, ObjectType.CONFIG))


def has_config(loader: Any, name: str) -> bool:
    """Say whether the loader's search path has a config of that name, such as model/mlp."""
    return bool(loader.repository.config_exists(name))
