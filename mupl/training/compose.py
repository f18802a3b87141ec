"""Configs as the command line composes them: of one run, or of one job of a multirun."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mupl.hydra_internals import has_config, is_config_group
from mupl.training.overrides import CONF, swept_texts
from mupl.training.registration import register

MAIN = "train"  # the config that others are told apart from


def compose(
    overrides: Sequence[str],
    name: str = MAIN,
    searched: Sequence[str] = (),
    folder: Path = CONF,
) -> DictConfig:
    """Compose a config as the command line does.

    Args:
        overrides: of the command line, such as model=gpt.
        name: of the main config.
        searched: more places where config groups lie, such as file:///home/me/conf.
        folder: where the main config lies, unless a command is running, which knows that.
    """
    if searched:
        overrides = [f"hydra.searchpath=[{','.join(searched)}]", *overrides]
    with _loader(folder) as loader:
        return loader.load_configuration(name, list(overrides), RunMode.RUN, from_shell=False)


@contextmanager
def _loader(folder: Path) -> Iterator[Any]:
    """Yield Hydra's loader of configs: the running command's, or one of the configs in a folder."""
    if GlobalHydra().is_initialized():
        yield GlobalHydra.instance().config_loader()
        return
    register()
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def compose_job(config: DictConfig, chosen: Mapping[str, str]) -> DictConfig:
    """Compose the config of a job of a multirun: its first one, but for some overrides.

    A key that a sweeper draws keeps the config's value.

    Args:
        config: of the multirun.
        chosen: key -> one of its `swept_texts`.
    """
    first = {key: texts[0] for key, texts in swept_texts(config).items() if texts}
    overrides = {**first, **chosen}.values()
    return compose([*search_overrides(config), *overrides], str(config.hydra.job.config_name))


def compose_choices(config: DictConfig) -> DictConfig:
    """Compose the first job of a multirun, and one for each choice that has no config.

    Returns the first one's config.

    Hydra refuses these only once it has made the sweep's folder.

    Raises:
        HydraException: Hydra's own, naming what there is.
    """
    first = compose_job(config, {})
    with _loader(CONF) as loader:
        for group, texts in swept_texts(config).items():
            for text in texts:
                choice = text.partition("=")[2]
                if is_config_group(loader, group) and not has_config(loader, f"{group}/{choice}"):
                    compose_job(config, {group: text})
    return first


def search_overrides(config: DictConfig) -> list[str]:
    """Return the overrides of a command line that say where configs lie."""
    # not resolved, as they may name keys of jobs only
    said: Any = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
    return [text for text in said if "hydra.searchpath" in text]
