"""One run, from its config to its row of results."""

import logging
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from mupl.claims import POLL, claimed, holder
from mupl.data.modules import data_module
from mupl.errors import ConfigError, bad_input, disk_error
from mupl.identity import (
    RESULT_FILE,
    differing_values,
    finished,
    job_row,
    read_result,
    trained,
    write_result,
)
from mupl.training.blocks import checkpoint_activations
from mupl.training.callbacks import LossRecord
from mupl.training.checkpoints import (
    BEST,
    FOLDER,
    Checkpoints,
    last_checkpoint,
    restore_metrics,
)
from mupl.training.checks import check
from mupl.training.config import (
    build_setup,
    load_data,
    show_parametrization,
    use_precision,
)
from mupl.training.loggers import RunLog
from mupl.training.module import TrainingModule
from mupl.training.outcome import summary
from mupl.training.processes import is_first_process
from mupl.training.progress import StepProgress
from mupl.training.sampling import write_sample
from mupl.training.threads import set_threads, step_flops

# Said by Lightning in every run, of things that are as they should be
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.WARNING)
for message in (
    ".*exists and is not empty",
    ".*is smaller than the logging interval",
    "GPU available but not used",  # as trainer=cpu says
    ".*LeafSpec.*deprecated",
    "FSDP2-wrapped module .* returned a view tensor",  # of a linear layer's output, by torch
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
    earlier = read_result(folder / RESULT_FILE)
    if earlier is not None and earlier["job"] != row["job"]:
        _keep_result(earlier, row, folder, cfg)
    elif earlier is not None and cfg.resume and earlier["status"] == "completed":
        if is_first_process():
            print(f"done before: {summary(earlier, hydra.run.dir)}")
        return earlier[cfg.metric]
    if not is_first_process():  # a process that helps the first one, which writes all files
        train(cfg, folder, RunLog({}, row), quiet=True)
        return None
    with claimed([folder]) as mine:
        if not mine:
            raise ConfigError(f"hydra.run.dir={folder}: {holder(folder)} writes there")
        row = _run(cfg, folder, row, alone=True)
    print(summary(row, hydra.run.dir))
    return row[cfg.metric]


def _keep_result(
    earlier: dict[str, Any], row: dict[str, Any], folder: Path, cfg: DictConfig
) -> None:
    """Refuse to train over the result of another config, unless this run goes on from that one."""
    if earlier["status"] == "failed" or cfg.rerun == "all" or last_checkpoint(folder, cfg.resume):
        return
    different = differing_values(row["config"], earlier["config"])
    # none differ if another version of mupl gave the id
    key, (here, there) = next(iter(different.items()), ("config", (None, None)))
    raise ConfigError(
        f"hydra.run.dir={folder}: holds the result of another run ({key}={there}, here {here}); "
        "name another folder, or say rerun=all to train over it"
    )


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
    sizes = {"batch_size": cfg.batch_size, "micro_batches": cfg.micro_batches}
    data = data_module(splits, seed=cfg.seed, **sizes)
    setup = build_setup(cfg, splits.model_args)
    log.begin(show_parametrization(setup, folder, quiet))
    if cfg.checkpoint_activations:
        checkpoint_activations(setup.model)
    if cfg.compile:
        setup.model.compile()
    alone = HydraConfig.get().mode is not RunMode.MULTIRUN
    checkpoint = last_checkpoint(folder, cfg.resume)
    callbacks: list[Callback] = []
    if not quiet:
        callbacks.append(StepProgress(cfg.batch_size, getattr(splits, "context", None)))
    if alone:
        callbacks += checkpoints(cfg, folder)
    trainer = build_trainer(cfg, log.loggers, callbacks)
    flops = step_flops(setup.infos, splits, cfg.batch_size)
    set_threads(cfg.threads, flops, trainer.strategy.root_device)
    outcome = fit(trainer, TrainingModule(setup), data, checkpoint)
    if alone and outcome["status"] == "completed":
        text = write_sample(setup, splits, cfg.sample, folder)
        if text is not None and not quiet:
            print(f"sample:\n{text}\n")
    return outcome


def build_trainer(
    cfg: DictConfig, loggers: list[Logger], callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Build the stock trainer of a config."""
    precision = use_precision(cfg.trainer.get("precision", "32-true"))
    chosen = [instantiate(entry) for entry in cfg.callbacks.values()]
    others: dict[str, Any] = {}
    if any(isinstance(callback, Checkpoint) for callback in callbacks):
        others["enable_checkpointing"] = True
    interval = cfg.trainer.get("val_check_interval")
    if cfg.micro_batches > 1:
        others["accumulate_grad_batches"] = cfg.micro_batches
        if isinstance(interval, int):  # Lightning counts batches
            others["val_check_interval"] = interval * cfg.micro_batches
    return instantiate(
        cfg.trainer,
        precision=precision,
        callbacks=[*chosen, LossRecord(), *callbacks],
        logger=loggers,
        **others,
    )


def checkpoints(cfg: DictConfig, folder: Path) -> list[Callback]:
    """Make the callbacks that save the last checkpoints of a run, and the best one."""
    options = cfg.checkpoint
    times = {"every_steps": options.every_steps, "every_minutes": options.every_minutes}
    saving: list[Callback] = [Checkpoints(folder, trained(cfg), keep=options.keep, **times)]
    if options.best:
        best = ModelCheckpoint(
            folder / FOLDER, filename=BEST, monitor="val_loss", enable_version_counter=False
        )
        saving.append(best)
    return saving


def fit(
    trainer: Trainer,
    module: TrainingModule,
    data: LightningDataModule,
    checkpoint: Path | None = None,
) -> dict[str, Any]:
    """Train, from a checkpoint on if there is one, and return the outcome columns of the row."""
    if checkpoint is not None and is_first_process():
        print(f"resume: goes on from {checkpoint}", flush=True)
        restore_metrics(trainer.loggers, checkpoint)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    record = next(callback for callback in callbacks if isinstance(callback, LossRecord))
    return record.outcome()
