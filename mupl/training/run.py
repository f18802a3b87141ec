"""One run, from its config to its row of results."""

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
from omegaconf import DictConfig

from mupl.data.modules import data_module
from mupl.errors import ConfigError, bad_input
from mupl.identity import finished, job_id, write_result
from mupl.training.callbacks import LossRecord, StepProgress
from mupl.training.check import check
from mupl.training.config import build, identity, show_parametrization
from mupl.training.module import TrainingModule

log = logging.getLogger(__name__)

# Said by Lightning in every run, of things that are as they should be
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
for message in (
    ".*exists and is not empty",
    ".*is smaller than the logging interval",
    ".*LeafSpec.*deprecated",
):
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
        write_result(
            folder, row | {"status": "failed", "error": f"{type(cause).__name__}: {cause}"}
        )
        if alone:
            raise
        if not isinstance(cause, ConfigError):
            log.exception("run failed")
        return float("nan")
    write_result(folder, row | {"seconds": round(time.perf_counter() - started, 3)})
    return row[cfg.metric]


def train(cfg: DictConfig, folder: Path, quiet: bool = False) -> dict[str, Any]:
    """config -> data, module, trainer -> fit -> outcome: status, steps, losses and accuracy."""
    check(cfg)
    seed_everything(cfg.seed, verbose=False)
    splits = instantiate(cfg.data)
    data = data_module(splits, batch_size=cfg.batch_size, seed=cfg.seed)
    module = build(TrainingModule, cfg, splits.model_args)
    show_parametrization(module, folder, quiet)
    return fit(build_trainer(cfg, quiet), module, data)


def build_trainer(cfg: DictConfig, quiet: bool) -> Trainer:
    """The stock trainer of a config; a job of a multirun leaves the display to the sweep.

    `trainer.precision=tf32` is Lightning's 32-true with `torch.set_float32_matmul_precision("high")`.
    """
    precision = cfg.trainer.get("precision")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "tf32":
        precision = "32-true"
    callbacks = (
        [instantiate(c) for c in cfg.callbacks.values()]
        + [LossRecord()]
        + ([] if quiet else [StepProgress()])
    )
    loggers = [instantiate(entry) for entry in cfg.logger.values()]
    return instantiate(cfg.trainer, precision=precision, callbacks=callbacks, logger=loggers)


def fit(trainer: Trainer, module: TrainingModule, data: LightningDataModule) -> dict[str, Any]:
    """Train, and return the outcome columns of the run's row: losses are NaN where the run diverged."""
    trainer.fit(module, datamodule=data)
    if trainer.interrupted:
        raise KeyboardInterrupt
    record = next(c for c in trainer.callbacks if isinstance(c, LossRecord))  # type: ignore[attr-defined]
    return record.outcome({key: float(value) for key, value in trainer.callback_metrics.items()})
