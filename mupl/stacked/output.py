"""What a stack leaves in the folders of its jobs: the files that each run would leave alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from mupl.files import write_csv
from mupl.stacked.member import Job
from mupl.stacked.stack import Stack
from mupl.stats.recorder import Recorder
from mupl.stats.rows import metrics_by_step
from mupl.training.config import show_parametrization
from mupl.training.outcome import VALIDATION
from mupl.training.outcome import outcome as outcome_of

Row = tuple[int, dict[str, float]]  # of metrics.csv: step and values
Validation = dict[int, dict[str, float]]  # a member's, by updates done


def write_members(
    jobs: Sequence[Job],
    stack: Stack,
    validation: Mapping[int, Mapping[str, Sequence[float]]],
    recorder: Recorder | None,
    table: str,
    seconds: float,
    ended: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """Write the parametrization, metrics and result of each member of a stack that is trained.

    Args:
        validation: each member's values, by updates done and name.
        recorder: of coordinate statistics, if there are any.
        table: name of the file for them.
        seconds: that each job took.
        ended: the members that are trained, and what goes over their outcomes; None: all are.
    """
    losses = stack.losses.T.cpu()
    first_bad = stack.diverged()
    norms = stack.readout_norms()
    for i, job in enumerate(jobs):
        if job.is_done() or (ended is not None and i not in ended):
            continue  # done earlier: it was trained again only so that the others train as before
        mine = {}
        for k, row in validation.items():
            mine[k] = {name: values[i] for name, values in row.items()}
        job.folder.mkdir(parents=True, exist_ok=True)
        parametrization = show_parametrization(job.setup, job.folder, quiet=True)
        rows: list[Row] = []
        if recorder is not None:
            recorder.write(job.folder / table, member=i)
            rows += metrics_by_step(recorder.rows_of(i)).items()
        result, logged = _member_output(job, stack, losses[i], mine, first_bad[i], norms[i])
        given = {} if ended is None else ended[i]
        outcome = {**result, **given, "seconds": seconds}
        _log(job, parametrization, rows + logged, outcome)
        job.write(outcome)


def _member_output(
    job: Job,
    stack: Stack,
    losses: Tensor,
    validation: Validation,
    first_bad: int | None,
    readout_norm: float | None,
) -> tuple[dict[str, Any], list[Row]]:
    """The outcome and the rows of metrics.csv of one member.

    Args:
        losses: (max_steps,).
        first_bad: the step whose loss was the first that is not finite, or None.
        readout_norm: of its weights, or None.
    """
    trainer = job.config.trainer
    every = trainer.log_every_n_steps
    steps = stack.k
    end = stack.k
    if first_bad is not None:
        steps = first_bad
        # a run alone looks at its losses when it logs them: there it is stopped, and validated once
        # more
        end = min(stack.max_steps, (steps // every + 1) * every)
        losses[steps + 1 :] = math.nan
        stale = [k for k in validation if k > steps]
        if trainer.get("limit_val_batches") != 0:
            stale.append(end)
        for k in stale:
            validation[k] = dict.fromkeys(VALIDATION, math.nan)
    last = validation[max(validation)] if validation else {}
    result = outcome_of(losses[:steps], first_bad is not None, last, readout_norm)
    return result, _metrics(losses, validation, end, every, stack.per_epoch)


def _metrics(
    losses: Tensor,
    validation: Validation,
    end: int,
    every: int,
    per_epoch: int,
) -> list[Row]:
    """The rows that Lightning logs in `end` updates; the step of update number k (from 0) is k."""
    rows: list[Row] = []
    for step in range(every - 1, end, every):
        rows.append((step, {"epoch": step // per_epoch, "train_loss": float(losses[step])}))
    for k, values in validation.items():
        if k <= end:
            rows.append((k - 1, {"epoch": (k - 1) // per_epoch, **values}))
    return rows


def _log(
    job: Job,
    parametrization: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    outcome: dict[str, Any],
) -> None:
    """Log the rows with each of the job's loggers, as one run of each."""
    rows = sorted(rows, key=lambda row: row[0])
    others = {}
    for name, entry in job.config.logger.items():
        file = _csv_file(entry)
        if file is None:
            others[name] = entry
        else:
            _write_csv(file, rows)
    if not others:
        return
    from mupl.training.loggers import RunLog  # imports Lightning

    log = RunLog(others, job.row)
    log.begin(parametrization)
    for step, values in rows:
        for logger in log.loggers:
            logger.log_metrics(values, step)
    log.end({**job.row, **outcome})


def _csv_file(logger: DictConfig) -> Path | None:
    """The file of Lightning's CSVLogger, where its arguments say it; None for any other logger.

    To write it here spares the import of Lightning, which takes longer than a small sweep.
    """
    if logger["_target_"] != "lightning.pytorch.loggers.CSVLogger":
        return None
    if set(logger) != {"_target_", "save_dir", "name", "version"}:
        return None
    parts = [logger.save_dir, logger.name, logger.version]
    if not all(isinstance(part, str) for part in parts):
        return None  # such as version=null: the first number that is free
    return Path(*parts, "metrics.csv")


def _write_csv(file: Path, rows: Sequence[Row]) -> None:
    """Write what Lightning's CSVLogger writes.

    Not by pandas, which would leave a NaN empty like a value that was not logged.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not rows:
        return
    columns = {"step"}
    for _, values in rows:
        columns.update(values)
    write_csv(file, [{**values, "step": step} for step, values in rows], sorted(columns))
