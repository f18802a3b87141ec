"""From a run's config to what it trains, and what is said of it before."""

import csv
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mupl.errors import ConfigError
from mupl.identity import IGNORED_KEYS
from mupl.optim.batch_size import BatchScaling
from mupl.parametrization.scales import scale_rows
from mupl.terminal import print_table
from mupl.training.setup import Setup

R = TypeVar("R", bound=Setup)


def identity(cfg: DictConfig, hydra: Any) -> dict[str, Any]:
    """What tells this run from the others of its sweep: the fixed columns of `results.csv` and every swept key."""
    swept = dict(item.lstrip("+~").split("=", 1) for item in hydra.overrides.task if "=" in item)
    told = {
        key: text
        for key, text in swept.items()
        if "/" not in key and key.split(".")[0] not in IGNORED_KEYS
    }
    values = {key: OmegaConf.select(cfg, key, default=text) for key, text in told.items()}
    chosen = {key: hydra.runtime.choices[key] for key in ("parametrization", "optimizer")}
    named = {key: hydra.runtime.choices.get(key, value) for key, value in values.items()}
    row = {"width": cfg.width, "lr": cfg.lr, "seed": cfg.seed} | chosen | named
    return {key: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for key, v in row.items()}


def build(kind: type[R], cfg: DictConfig, model_args: dict[str, Any]) -> R:
    """The setup of a config, of class `kind`, for data that tell a model's constructor `model_args`."""
    model = instantiate(cfg.model)
    takes = inspect.signature(model).parameters.values()
    if not {p.name for p in takes} >= set(model_args) and all(
        p.kind is not p.VAR_KEYWORD for p in takes
    ):
        raise ConfigError(
            f"model={cfg.model._target_}: takes no {' and '.join(model_args)}, which is what the data have"
        )
    width, base_width = (
        list(w) if OmegaConf.is_list(w) else w for w in (cfg.width, cfg.base_width)
    )
    in_depth = {} if cfg.base_depth is None else {"depth": cfg.depth, "base_depth": cfg.base_depth}
    return kind(
        lambda w, **depth: model(width=w, **model_args, **depth),
        width,
        base_width=base_width,
        **in_depth,
        parametrization=instantiate(cfg.parametrization),
        optimizer=batch_scaling(cfg).optimizer(instantiate(cfg.optimizer)),
        schedule=instantiate(cfg.scheduler),
        loss=loss_function(cfg.loss),
        roles=cfg.roles,
        init=cfg.init,
        **varied(cfg),
    )


def loss_function(name: str) -> Callable[..., Any]:
    """The function of that dotted name; ConfigError if there is none."""
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not callable(found):
        raise ConfigError(
            f"loss={name}: must be the dotted name of a function (output, target) -> mean loss, such as "
            "mupl.training.setup.cross_entropy"
        )
    return found


TUNED_KEYS = ("lr", "eps", "weight_decay", "weight_decay_mode", "seed")


def varied(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of a setup that follow from `TUNED_KEYS` and do not say what its model is."""
    tuned = batch_scaling(cfg).values(cfg.lr, cfg.eps, cfg.weight_decay)
    return {**tuned, "weight_decay_mode": cfg.weight_decay_mode, "seed": cfg.seed}


def batch_scaling(cfg: DictConfig) -> BatchScaling:
    """The rule from the base batch size and steps to this run's; of the base, null is this run's batch size and the
    steps that make as many examples."""
    base_batch = cfg.base_batch_size or cfg.batch_size
    examples = cfg.batch_size * cfg.max_steps
    return BatchScaling(
        cfg.batch_scaling,
        m_B=cfg.batch_size / base_batch,
        m_D=examples / (base_batch * cfg.base_steps) if cfg.base_steps else 1.0,
    )


def show_parametrization(setup: Setup, folder: Path, quiet: bool) -> None:
    """Write the parametrization table into the run's folder, and print it unless the run is one of many."""
    rows = scale_rows(setup.infos, setup.scales)
    with (folder / "parametrization.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if not quiet:
        print_table(rows, "parametrization")
