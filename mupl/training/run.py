"""One run, from its config to its row of results."""

import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from mupl.claims import POLL, claimed, holder
from mupl.data.modules import data_module
from mupl.errors import ConfigError, bad_input, disk_error
from mupl.identity import finished, job_row, write_result
from mupl.training.callbacks import LossRecord, StepProgress
from mupl.training.checks import check
from mupl.training.config import (
    CheckedLoss,
    build_setup,
    load_data,
    show_parametrization,
    use_precision,
)
from mupl.training.loggers import RunLog
from mupl.training.module import TrainingModule
from mupl.training.outcome import summary
from mupl.training.threads import set_threads, step_flops

# Said by Lightning in every run, of things that are as they should be
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
for message in (
    ".*exists and is not empty",
    ".*is smaller than the logging interval",
    ".*LeafSpec.*deprecated",
):
    warnings.filterwarnings("ignore", message)


def run(cfg: DictConfig) -> float | None:
    """Train as `cfg` says, and return the objective of a sweeper.

    Leaves tables and `result.json` in Hydra's output folder. A run that diverges is a result. One
    that fails raises if it is alone; in a multirun it becomes a row that holds its error, so that
    the others go on. A job of a multirun that was done before is not run again, and one that
    another process runs is left to it.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    row = job_row(cfg, hydra)
    if hydra.mode is RunMode.MULTIRUN:
        return _run_job(cfg, folder, row, str(hydra.sweeper._target_))
    with claimed([folder]) as mine:
        if not mine:
            raise ConfigError(f"hydra.run.dir={folder}: {holder(folder)} writes there")
        row = _run(cfg, folder, row, alone=True)
    print(summary(row, hydra.run.dir))
    return row[cfg.metric]


def _run_job(cfg: DictConfig, folder: Path, row: dict[str, Any], sweeper: str) -> float:
    while True:
        # claims after a first look, so that a job that is done looks taken to nobody
        earlier = finished(folder, row["job"], cfg.rerun)
        if earlier is None:
            with claimed([folder]) as mine:
                if mine:
                    earlier = finished(folder, row["job"], cfg.rerun)
                    earlier = earlier or _run(cfg, folder, row, alone=False)
        if earlier is not None:
            return earlier.get(cfg.metric, math.nan)
        if sweeper.endswith(".BasicSweeper"):
            print(f"job {folder.name} is left to {holder(folder)}", flush=True)
            return math.nan
        time.sleep(POLL)  # a sweeper that chooses jobs by results needs this one


def _run(cfg: DictConfig, folder: Path, row: dict[str, Any], alone: bool) -> dict[str, Any]:
    """Train, and write and return the row, which is a failed one if the training raises."""
    started = time.perf_counter()
    log = RunLog(cfg.logger, row)
    try:
        row |= train(cfg, folder, log, quiet=not alone)
    except Exception as error:
        if disk_error(error):
            raise  # no fault of the job: it runs again once there is room
        cause = bad_input(error)
        row |= {"status": "failed", "error": f"{type(cause).__name__}: {cause}"}
        write_result(folder, row)
        if alone:
            raise
        if not isinstance(cause, ConfigError):
            logging.getLogger(__name__).exception("run failed")
        log.end(row)
        return row
    row["seconds"] = round(time.perf_counter() - started, 3)
    log.end(row)
    write_result(folder, row)
    return row


def train(cfg: DictConfig, folder: Path, log: RunLog, quiet: bool = False) -> dict[str, Any]:
    """config -> data, module, trainer -> fit -> outcome: status, steps, losses and accuracy."""
    check(cfg)
    seed_everything(cfg.seed, verbose=False)
    splits = load_data(cfg)
    data = data_module(splits, batch_size=cfg.batch_size, seed=cfg.seed)
    setup = build_setup(cfg, splits.model_args)
    setup.loss = CheckedLoss(setup.loss)
    log.begin(show_parametrization(setup, folder, quiet))
    trainer = build_trainer(cfg, log.loggers, quiet)
    flops = step_flops(setup.infos, splits, cfg.batch_size)
    set_threads(cfg.threads, flops, trainer.strategy.root_device)
    return fit(trainer, TrainingModule(setup), data)


def build_trainer(cfg: DictConfig, loggers: list[Logger], quiet: bool) -> Trainer:
    """Build the stock trainer of a config; a job of a multirun leaves the display to the sweep."""
    precision = use_precision(cfg.trainer.get("precision", "32-true"))
    callbacks = [instantiate(entry) for entry in cfg.callbacks.values()]
    callbacks.append(LossRecord())
    if not quiet:
        callbacks.append(StepProgress())
    return instantiate(cfg.trainer, precision=precision, callbacks=callbacks, logger=loggers)


def fit(trainer: Trainer, module: TrainingModule, data: LightningDataModule) -> dict[str, Any]:
    """Train, and return the outcome columns of the run's row."""
    trainer.fit(module, datamodule=data)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    record = next(callback for callback in callbacks if isinstance(callback, LossRecord))
    validation = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return record.outcome(validation)
