"""What a stack leaves in the folders of its jobs: the files of runs alone."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from mupl.identity import RESULT_FILE
from mupl.stacked.member import Job
from mupl.stacked.stack import Stack
from mupl.stats.recorder import Recorder
from mupl.stats.rows import metrics_by_step
from mupl.training.config import show_parametrization
from mupl.training.outcome import VALIDATION, outcome

CSV_LOGGER, CSV = "lightning.pytorch.loggers.CSVLogger", {"_target_", "save_dir", "name", "version"}
Row = tuple[int, dict[str, float]]  # of metrics.csv: step and values
Validation = dict[int, dict[str, float]]  # a member's, by updates done


def write_members(
    jobs: Sequence[Job],
    stack: Stack,
    validation: dict[int, dict[str, list[float]]],
    recorder: Recorder | None,
    table: str,
    seconds: float,
) -> None:
    """The parametrization, the metrics and the result of each member of a stack that is trained.

    Args:
        validation: of all members, by updates done.
        recorder, table: of coordinate statistics, and the name of its file.
        seconds: of each job.
    """
    trainer = jobs[0].config.trainer
    losses, diverged = stack.losses.T.cpu(), stack.diverged()
    for i, job in enumerate(jobs):
        if (
            job.folder / RESULT_FILE
        ).exists():  # of an earlier time: it went along for the sake of the others
            continue
        first_bad = diverged[i]
        steps = stack.k if first_bad is None else first_bad
        mine = {
            k: {name: values[i] for name, values in row.items()} for k, row in validation.items()
        }
        end = stack.k
        if first_bad is not None:
            end = min(
                stack.max_steps,
                (steps // trainer.log_every_n_steps + 1) * trainer.log_every_n_steps,
            )
            _forget_frozen(
                losses[i], mine, steps, None if trainer.get("limit_val_batches") == 0 else end
            )
        job.folder.mkdir(parents=True, exist_ok=True)
        show_parametrization(job.setup, job.folder, quiet=True)
        rows: list[Row] = []
        if recorder is not None:
            recorder.write(job.folder / table, member=i)
            rows += metrics_by_step(recorder.rows_of(i)).items()
        rows += _metrics(losses[i], mine, end, trainer.log_every_n_steps, stack.per_epoch)
        _log(job.config, rows)
        last = mine[max(mine)] if mine else {}
        job.write(outcome(losses[i, :steps], first_bad is not None, last) | {"seconds": seconds})


def _forget_frozen(
    losses: torch.Tensor, validation: Validation, steps: int, end: int | None
) -> None:
    """NaN in place of what a member gave after `steps` updates, when it had diverged and lay frozen.

    Args:
        end: the update after which it would be stopped alone, and validated once more; None: without validation.
    """
    losses[steps + 1 :] = math.nan
    later = [k for k in validation if k > steps] + ([] if end is None else [end])
    validation.update({k: dict.fromkeys(VALIDATION, math.nan) for k in later})


def _metrics(
    losses: torch.Tensor, validation: Validation, end: int, every: int, per_epoch: int
) -> list[Row]:
    """The rows that Lightning logs in `end` updates; the step of update number k (from 0) is k."""
    rows = [(step, {"train_loss": float(losses[step])}) for step in range(every - 1, end, every)]
    rows += [(k - 1, values) for k, values in validation.items() if k <= end]
    return [(step, {"epoch": step // per_epoch, **values}) for step, values in rows]


def _log(config: DictConfig, rows: Sequence[Row]) -> None:
    """Through the job's own loggers, and into their files."""
    rows = sorted(rows, key=lambda row: row[0])
    for entry in config.logger.values():
        if (
            entry["_target_"] == CSV_LOGGER
            and set(entry) == CSV
            and all(isinstance(entry[key], str) for key in CSV)
        ):
            _write_csv(Path(entry.save_dir) / entry.name / entry.version / "metrics.csv", rows)
            continue
        logger = instantiate(entry)
        for step, values in rows:
            logger.log_metrics(values, step)
        logger.save()
        logger.finalize("success")


def _write_csv(file: Path, rows: Sequence[Row]) -> None:
    """The file of Lightning's CSVLogger, without the import of Lightning and the many small writes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not rows:
        return
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, sorted({"step"}.union(*(values for _, values in rows))))
        writer.writeheader()
        writer.writerows({**values, "step": step} for step, values in rows)
