"""Checkpoints of a run that is alone, and how it goes on from the last one."""

import csv
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from mupl import signals
from mupl.errors import ConfigError
from mupl.names import flat

FOLDER = "checkpoints"  # in the run's folder
BEST = "best"
PATTERN = "step-*.ckpt"
SHOWN = 4  # settings that differ, in one line


class Checkpoints(Checkpoint):
    """Saves what a run needs to go on: by steps, by time, and where a signal ends it.

    A checkpoint is saved where a step is done whole. Where a validation follows on the step, that
    is after it, so that a resumed run has neither lost nor doubled rows of metrics.csv. It holds
    also the states of the random generators, and the number of rows.

    Args:
        folder: of the run.
        config: what is trained, to be compared by a run that goes on.
        every_steps: updates between checkpoints; None: none by steps.
        every_minutes: minutes between checkpoints; None: none by time.
        keep: how many of the last ones are kept.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        every_steps: int | None,
        every_minutes: float | None,
        keep: int,
    ) -> None:
        self._folder = folder / FOLDER
        self._config = config
        self._every_steps = every_steps
        self._every_minutes = every_minutes
        self._keep = keep
        self._due = False
        self._validated = False
        self._loaded: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step
        self._signals = ExitStack()  # after Lightning's handlers, in whose place these are
        self._arrived = self._signals.enter_context(signals.noted())
        if self._loaded is not None:
            self._write_pending(trainer, self._loaded["pending"])
            _restore_rng(self._loaded["rng"], trainer.strategy.root_device)
            self._loaded = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        self._due = self._is_due(trainer)
        self._validated = False
        if self._due and not self._validates(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True
        if self._due:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.close()
        saves = self._every_steps is not None or any(self._folder.glob(PATTERN))
        if trainer.strategy.broadcast(saves) and self._saved_step < trainer.global_step:
            self._validated = True  # nothing of the last step is pending
            self._save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "_signals"):
            self._signals.close()

    def _is_due(self, trainer: Trainer) -> bool:
        if self._every_steps and trainer.global_step % self._every_steps == 0:
            return True
        minutes = (time.monotonic() - self._saved_at) / 60
        by_time = self._every_minutes is not None and minutes >= self._every_minutes
        # the processes have clocks of their own, and a signal may reach one of them only
        return trainer.strategy.reduce_boolean_decision(by_time or bool(self._arrived()), all=False)

    def _validates(self, trainer: Trainer) -> bool:
        """Whether a validation follows on the present step."""
        fetcher = trainer.fit_loop._data_fetcher
        return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)

    def _save(self, trainer: Trainer) -> None:
        """Save a checkpoint, delete the older ones, and end the run if a signal has arrived."""
        self._due = False
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step
        trainer.save_checkpoint(self._folder / f"step-{trainer.global_step}.ckpt")
        if trainer.is_global_zero:
            for old in saved(self._folder)[: -self._keep]:
                old.unlink()
        number = torch.tensor(self._arrived(), device=trainer.strategy.root_device)
        arrived = int(trainer.strategy.reduce(number, reduce_op="max"))
        if arrived:
            self._signals.close()
            place = self._folder.parent
            raise signals.Interrupted(
                arrived,
                f"saved at step {trainer.global_step}; the same command with resume=true goes on, "
                f"or resume={place}",
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what Lightning does not save: random states, rows of metrics.csv, the config."""
        pending: dict[str, float] = {}
        connector = trainer._logger_connector
        if not self._validated and connector.should_update_logs:
            # Lightning logs the metrics of a step after the hook in which it is saved
            pending = {key: float(value) for key, value in connector.metrics["log"].items()}
            pending["epoch"] = trainer.current_epoch
        checkpoint["mupl_run"] = {
            "config": dict(self._config),
            "rng": _rng_states(trainer.strategy.root_device),
            "rows": _count_rows(trainer.loggers),
            "pending": pending,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = checkpoint.get("mupl_run")
        if self._loaded is not None and trainer.is_global_zero:
            _say_differences(self._loaded["config"], self._config)

    def _write_pending(self, trainer: Trainer, pending: Mapping[str, float]) -> None:
        if not pending:
            return
        for logger in trainer.loggers:
            logger.log_metrics(dict(pending), trainer.global_step - 1)


def _rng_states(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators, as values that torch loads from any file."""
    states = _collect_rng_states(include_cuda=False)  # else of all GPUs, which would be taken up
    name, keys, *rest = states["numpy"]
    states["numpy"] = (name, keys.tolist(), *rest)
    if device.type == "cuda":
        states["gpu"] = torch.cuda.get_rng_state(device)
    return states


def _restore_rng(states: Mapping[str, Any], device: torch.device) -> None:
    """Set the generators to the states of the first process, as all processes begin alike."""
    _set_rng_states(dict(states))
    if device.type == "cuda" and "gpu" in states:
        torch.cuda.set_rng_state(states["gpu"].cpu(), device)


def saved(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, the last step last."""
    files = folder.glob(PATTERN)
    return sorted(files, key=lambda file: int(file.stem.partition("-")[2]))


def last_checkpoint(folder: Path, resume: bool | str) -> Path | None:
    """Return the checkpoint that a run goes on from; None to begin anew.

    Args:
        folder: of the run.
        resume: false; true for the last one in this folder, if there is one; or another run's
            folder, or a checkpoint.

    Raises:
        ConfigError: if a folder that is named has none.
    """
    if resume is False:
        return None
    if isinstance(resume, str) and Path(resume).is_file():
        return Path(resume)
    found = saved((folder if resume is True else Path(resume)) / FOLDER)
    if found:
        return found[-1]
    if resume is not True:
        raise ConfigError(
            f"resume={resume}: has no {FOLDER}/{PATTERN}; name the folder of a run that saved one, "
            "or say resume=true, which begins anew where there is none"
        )
    return None


def restore_metrics(loggers: Sequence[Logger], checkpoint: Path) -> None:
    """Let metrics.csv begin with the rows that the run had when it was saved."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    rows = state.get("mupl_run", {}).get("rows", 0)
    for logger in loggers:
        if not isinstance(logger, CSVLogger):
            continue
        file = checkpoint.parents[1] / "metrics.csv"
        kept: list[dict[str, str]] = []
        if file.exists():
            with file.open(newline="") as lines:
                kept = list(csv.DictReader(lines))[:rows]
        experiment: Any = logger.experiment  # which deletes the file of an earlier start
        for row in kept:
            values: Any = {key: text for key, text in row.items() if text and key != "step"}
            experiment.log_metrics(values, int(row["step"]))
        experiment.save()


def _count_rows(loggers: Sequence[Logger]) -> int:
    """Write the rows of metrics.csv that wait, and return how many there are."""
    for logger in loggers:
        logger.save()
        if isinstance(logger, CSVLogger):
            file = Path(logger.log_dir, "metrics.csv")
            if file.exists():
                with file.open(newline="") as lines:
                    return sum(1 for _ in csv.DictReader(lines))
    return 0


def _say_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say in one line which settings differ from the run that saved the checkpoint."""
    before, now = flat(before), flat(now)
    different = [
        f"{key}={now.get(key)} (was {before.get(key)})"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if different:
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        print(f"note: resume: goes on with {', '.join(different[:SHOWN])}{more}", flush=True)
