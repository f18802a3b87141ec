"""From a run's config to what it trains."""

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mupl.errors import ConfigError
from mupl.files import write_csv
from mupl.identity import METRICS, RERUN
from mupl.optim.batch_size import BatchScaling
from mupl.parametrization.scales import check_hyperparameters, scale_rows
from mupl.terminal import print_table
from mupl.training.setup import Setup

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
SIZES = ("width", "depth")  # arguments of a model that a setup gives to it

WHOLE = {"depth": 1, "batch_size": 1, "max_steps": 1, "seed": 0}  # key -> smallest value
WHOLE_OR_NULL = ("base_depth", "base_batch_size", "base_steps")
TUNED_KEYS = ("lr", "eps", "weight_decay", "weight_decay_mode", "seed")


def check(cfg: DictConfig) -> None:
    """Check the top-level values of a config, before anything is loaded or trained.

    Raises:
        ConfigError: at the first value that cannot be, naming its key and what would be right.
    """
    for key in ("width", "base_width"):
        entries = cfg[key] if OmegaConf.is_list(cfg[key]) else [cfg[key]]
        if not entries or not all(_is_whole(entry, 1) for entry in entries):
            raise ConfigError(f"{key}={cfg[key]}: must be a whole number >= 1, or a list of them")
    for key, least in WHOLE.items():
        if not _is_whole(cfg[key], least):
            raise ConfigError(f"{key}={cfg[key]}: must be a whole number >= {least}")
    check_hyperparameters(cfg.lr, cfg.eps, cfg.weight_decay, cfg.weight_decay_mode)
    for key in WHOLE_OR_NULL:
        if cfg[key] is not None and not _is_whole(cfg[key], 1):
            raise ConfigError(f"{key}={cfg[key]}: must be a whole number >= 1, or null")
    if cfg.threads != "auto" and not _is_whole(cfg.threads, 1):
        raise ConfigError(f"threads={cfg.threads}: must be a whole number >= 1, or auto")
    if cfg.rerun not in RERUN:
        raise ConfigError(f"rerun={cfg.rerun}: must be one of {', '.join(RERUN)}")
    if cfg.metric not in METRICS:
        raise ConfigError(f"metric={cfg.metric}: must be one of {', '.join(METRICS)}")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def build_setup(cfg: DictConfig, offered: Mapping[str, Any]) -> Setup:
    """Build the setup of a config, for data that offer these arguments to its model."""
    model = instantiate(cfg.model)
    from_data = taken_arguments(cfg.model._target_, model, offered)
    in_depth = {}
    if cfg.base_depth is not None:
        in_depth = {"depth": cfg.depth, "base_depth": cfg.base_depth}
    return Setup(
        lambda width, **depth: model(width=width, **from_data, **depth),
        _plain(cfg.width),
        base_width=_plain(cfg.base_width),
        **in_depth,
        parametrization=instantiate(cfg.parametrization),
        optimizer=batch_scaling(cfg).optimizer(instantiate(cfg.optimizer)),
        schedule=instantiate(cfg.scheduler),
        loss=loss_function(cfg.loss),
        roles=cfg.roles,
        init=cfg.init,
        **tuned(cfg),
    )


def _plain(width: Any) -> Any:
    return list(width) if OmegaConf.is_list(width) else width


def taken_arguments(
    name: str, model: Callable[..., Any], offered: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments that a model's constructor takes, among those that the data offer.

    One that the config has set already, a keyword of the partial `model`, is left as it is.

    Raises:
        ConfigError: if the constructor needs an argument that nobody gives.
    """
    parameters = inspect.signature(model).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = getattr(model, "keywords", {})
    taken = {}
    for key, value in offered.items():
        if (key in parameters or takes_any) and key not in given:
            taken[key] = value
    required = [key for key, p in parameters.items() if p.default is p.empty and p.kind in NAMED]
    missing = [key for key in required if key not in taken and key not in SIZES]
    if missing:
        raise ConfigError(
            f"model={name}: takes {_listed(missing)}, which these data do not have; "
            f"they have {_listed(offered)}"
        )
    return taken


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def loss_function(name: str) -> Callable[..., Any]:
    """Return the function of that dotted name.

    Raises:
        ConfigError: if there is none.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not callable(found):
        raise ConfigError(
            f"loss={name}: must be the dotted name of a function (output, target) -> mean loss, "
            "such as mupl.training.setup.cross_entropy"
        )
    return found


def tuned(cfg: DictConfig) -> dict[str, Any]:
    """Return the arguments of a setup that follow from `TUNED_KEYS`; none shapes its model."""
    scaled = batch_scaling(cfg).values(cfg.lr, cfg.eps, cfg.weight_decay)
    return {**scaled, "weight_decay_mode": cfg.weight_decay_mode, "seed": cfg.seed}


def batch_scaling(cfg: DictConfig) -> BatchScaling:
    """Return the rule from the base batch size and number of steps to this run's.

    A base batch size of null is this run's; base steps of null are those that make as many examples
    as this run.
    """
    base_batch = cfg.base_batch_size or cfg.batch_size
    m_D = 1.0  # number of examples, over the base's
    if cfg.base_steps:
        m_D = cfg.batch_size * cfg.max_steps / (base_batch * cfg.base_steps)
    return BatchScaling(cfg.batch_scaling, m_B=cfg.batch_size / base_batch, m_D=m_D)


def use_precision(word: str) -> str:
    """Set how torch multiplies matrices of float32, and return Lightning's word.

    Our `tf32` is Lightning's `32-true` with products in TF32; all other words are Lightning's own.
    """
    torch.set_float32_matmul_precision("high" if word == "tf32" else "highest")
    return "32-true" if word == "tf32" else word


def show_parametrization(setup: Setup, folder: Path, quiet: bool) -> None:
    """Write the parametrization table into the run's folder; print it unless `quiet`."""
    rows = scale_rows(setup.infos, setup.scales)
    write_csv(folder / "parametrization.csv", rows, columns=list(rows[0]))
    if not quiet:
        print_table(rows, "parametrization")
