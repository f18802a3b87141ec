"""Remember what Hydra makes of conf/, so that a process composes each choice of groups once.

Hydra reads some twenty files again for each config, which takes a tenth of a second. What it makes
of files and of chosen groups is pure: here it is kept, pickled. All that an override does
otherwise, and every error, is still Hydra's own.
"""

import copy
import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf

CONF = f"{Path(__file__).parents[1]}/conf"

_kept: dict[tuple[object, ...], bytes] = {}
_begin = CachingConfigRepository.__init__
_load = ConfigRepository.load_config
_defaults = config_loader_impl.create_defaults_list
_compose = ConfigLoaderImpl._compose_config_from_defaults_list
_mode = Hydra.get_mode


def remembering() -> AbstractContextManager[None]:
    """Have Hydra compose what it composed before in this process from memory."""
    return _composing(begin, load_config, create_defaults_list, compose_config, get_mode)


def forgetting() -> AbstractContextManager[None]:
    """Have Hydra compose all anew, as it does outside of the tests."""
    return _composing(_begin, _load, _defaults, _compose, _mode)


@contextmanager
def _composing(begin: Any, load: Any, defaults: Any, compose: Any, mode: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachingConfigRepository, "__init__", begin)
        patch.setattr(ConfigRepository, "load_config", load)
        patch.setattr(config_loader_impl, "create_defaults_list", defaults)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose)
        patch.setattr(Hydra, "get_mode", mode)
        yield


def begin(caching: CachingConfigRepository, delegate: ConfigRepository) -> None:
    """Copy the list of sources, which an override may change, but not each config in them."""
    caching.delegate = copy.copy(delegate)
    caching.cache = {}


def load_config(repo: ConfigRepository, config_path: str) -> Any:
    """Read one file, or what stands for one."""
    return kept(repo, ("file", config_path), lambda: _load(repo, config_path))


def create_defaults_list(
    repo: Any, config_name: str | None, overrides_list: list[Any], **options: bool
) -> DefaultsList:
    """Say which files a config is made of; the overrides that only set values change nothing."""
    values = Overrides(repo=repo, overrides_list=overrides_list).config_overrides
    choices = [one for one in overrides_list if all(one is not value for value in values)]
    texts = [one.input_line for one in choices]
    key = ("defaults", config_name, *texts, *sorted(options.items()))
    found = kept(repo, key, lambda: _defaults(repo, config_name, choices, **options))
    return replace(found, config_overrides=values)


def compose_config(loader: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> Any:
    """Merge the files of a list."""
    key = ("config", *[str(sorted(vars(one).items())) for one in defaults])
    config = kept(repo, key, lambda: _compose(loader, defaults=defaults, repo=repo))
    OmegaConf.clear_cache(config)  # the time at which it was made
    return config


def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Say whether a command is one run or a sweep, where the command line does not.

    No file of conf/ says it: without an override that does, the whole is not composed for it.
    """
    if any("hydra" in text and "mode" in text for text in overrides):
        return _mode(hydra, config_name, overrides)
    return None


def kept(repo: Any, key: tuple[object, ...], make: Any) -> Any:
    """Return a copy of what was made for this key from the same files."""
    whole = (*key, *[stamp(source.full_path()) for source in repo.get_sources()])
    if whole not in _kept:
        _kept[whole] = pickle.dumps(make())
    return pickle.loads(_kept[whole])


def stamp(source: str) -> tuple[object, ...]:
    """Name a source, and if it is a folder that a test made, the state of its files."""
    scheme, _, folder = source.partition("://")
    if scheme != "file" or folder == CONF:
        return (source,)
    files = sorted(Path(folder).rglob("*.yaml"))
    return (source, *[(str(file), file.stat().st_mtime_ns) for file in files])
