"""One run, from its config to its row of results."""

import csv
import inspect
import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf

from mupl.data import data_module
from mupl.errors import ConfigError, bad_input
from mupl.jobs import UNTOLD, finished, job_id, write_result
from mupl.optim.batch_size import BatchScaling
from mupl.parametrization.report import print_table, rich_table, scale_rows
from mupl.training.callbacks import LossRecord, StepProgress
from mupl.training.check import check
from mupl.training.module import TrainingModule

log = logging.getLogger(__name__)

# Said by Lightning in every run, of things that are as they should be
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
for message in (".*exists and is not empty", ".*is smaller than the logging interval", ".*LeafSpec.*deprecated"):
    warnings.filterwarnings("ignore", message)


def run(cfg: DictConfig) -> float | None:
    """Train as `cfg` says; leave tables and `result.json` in Hydra's output folder; return the objective of a sweeper.

    A run that diverges is a result. One that fails raises if it is alone; in a multirun it becomes a row that holds its
    error, so that the others go on.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    started = time.perf_counter()
    job = job_id(cfg)
    row = {"job": job, **identity(cfg, hydra)}
    alone = hydra.mode is not RunMode.MULTIRUN
    if not alone and (found := finished(folder, job, cfg.rerun)):
        return found.get(cfg.metric, math.nan)
    try:
        row |= train(cfg, folder, quiet=not alone)
    except Exception as error:
        cause = bad_input(error)
        write_result(folder, row | {"status": "failed", "error": f"{type(cause).__name__}: {cause}"})
        if alone:
            raise
        if not isinstance(cause, ConfigError):
            log.exception("run failed")
        return float("nan")
    write_result(folder, row | {"seconds": round(time.perf_counter() - started, 3)})
    return row[cfg.metric]


def identity(cfg: DictConfig, hydra: Any) -> dict[str, Any]:
    """What tells this run from the others of its sweep: the fixed columns of `results.csv` and every swept key."""
    swept = dict(item.lstrip("+~").split("=", 1) for item in hydra.overrides.task if "=" in item)
    told = {key: text for key, text in swept.items() if "/" not in key and key.split(".")[0] not in UNTOLD}
    values = {key: OmegaConf.select(cfg, key, default=text) for key, text in told.items()}
    chosen = {key: hydra.runtime.choices[key] for key in ("parametrization", "optimizer")}
    named = {key: hydra.runtime.choices.get(key, value) for key, value in values.items()}
    row = {"width": cfg.width, "lr": cfg.lr, "seed": cfg.seed} | chosen | named
    return {key: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for key, v in row.items()}


def train(cfg: DictConfig, folder: Path, quiet: bool = False) -> dict[str, Any]:
    """config -> data, module, trainer -> fit -> outcome: status, steps, losses and accuracy."""
    check(cfg)
    seed_everything(cfg.seed, verbose=False)
    splits = instantiate(cfg.data)
    data = data_module(splits, batch_size=cfg.batch_size, seed=cfg.seed)
    module = build_module(cfg, splits.model_args)
    show_parametrization(module, folder, quiet)
    return fit(build_trainer(cfg, quiet), module, data)


def build_module(cfg: DictConfig, model_args: dict[str, Any]) -> TrainingModule:
    """The module of a config, for data that tell a model's constructor `model_args`."""
    model = instantiate(cfg.model)
    takes = inspect.signature(model).parameters.values()
    if not {p.name for p in takes} >= set(model_args) and all(p.kind is not p.VAR_KEYWORD for p in takes):
        raise ConfigError(
            f"model={cfg.model._target_}: takes no {' and '.join(model_args)}, which is what the data have"
        )
    width, base_width = (list(w) if OmegaConf.is_list(w) else w for w in (cfg.width, cfg.base_width))
    sizes = batch_scaling(cfg)
    tuned: dict[str, Any] = sizes.values(cfg.lr, cfg.eps, cfg.weight_decay)
    in_depth = {} if cfg.base_depth is None else {"depth": cfg.depth, "base_depth": cfg.base_depth}
    return TrainingModule(
        lambda w, **depth: model(width=w, **model_args, **depth),
        width,
        base_width=base_width,
        **in_depth,
        parametrization=instantiate(cfg.parametrization),
        optimizer=sizes.optimizer(instantiate(cfg.optimizer)),
        **tuned,
        weight_decay_mode=cfg.weight_decay_mode,
        schedule=instantiate(cfg.scheduler),
        roles=cfg.roles,
        init=cfg.init,
        seed=cfg.seed,
    )


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


def build_trainer(cfg: DictConfig, quiet: bool) -> Trainer:
    """The stock trainer of a config; a job of a multirun leaves the display to the sweep.

    `trainer.precision=tf32` is Lightning's 32-true with `torch.set_float32_matmul_precision("high")`.
    """
    precision = cfg.trainer.get("precision")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "tf32":
        precision = "32-true"
    callbacks = [instantiate(c) for c in cfg.callbacks.values()] + [LossRecord()] + ([] if quiet else [StepProgress()])
    loggers = [instantiate(entry) for entry in cfg.logger.values()]
    return instantiate(cfg.trainer, precision=precision, callbacks=callbacks, logger=loggers)


def show_parametrization(module: TrainingModule, folder: Path, quiet: bool) -> None:
    """Write the parametrization table into the run's folder, and print it unless the run is one of many."""
    rows = scale_rows(module.infos, module.scales)
    with (folder / "parametrization.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if not quiet:
        print_table(rich_table(rows, title="parametrization"))


def fit(trainer: Trainer, module: TrainingModule, data: LightningDataModule) -> dict[str, Any]:
    """Train, and return the outcome columns of the run's row: losses are NaN where the run diverged."""
    trainer.fit(module, datamodule=data)
    if trainer.interrupted:
        raise KeyboardInterrupt
    record = next(c for c in trainer.callbacks if isinstance(c, LossRecord))  # type: ignore[attr-defined]
    return record.outcome({key: float(value) for key, value in trainer.callback_metrics.items()})
