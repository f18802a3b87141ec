"""Training jobs of a sweep as one stack, from their configs to the files in their folders."""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mupl.claims import claimed, holder
from mupl.signals import leave, noted
from mupl.stacked.checkpoint import Checkpoint
from mupl.stacked.member import Job
from mupl.stacked.output import write_members
from mupl.stacked.rules import NotStackable
from mupl.stacked.stack import Stack
from mupl.stats.recorder import Recorder
from mupl.training.config import use_precision
from mupl.training.threads import set_threads, step_flops

AGAIN = "the same command goes on from here"


def device_of(config: DictConfig) -> torch.device:
    """The device that a job is trained on.

    Raises:
        NotStackable: where the accelerator that it asks for is not there.
    """
    wanted = config.trainer.accelerator
    has_gpu = torch.cuda.is_available()
    if wanted not in ("auto", "cpu") and not has_gpu:
        raise NotStackable(f"trainer.accelerator={wanted}: there is none")
    return torch.device("cuda" if has_gpu and wanted != "cpu" else "cpu")


def train_stack(
    jobs: Sequence[Job],
    states: Path,
    save_every: float,
    title: str,
) -> None:
    """Train the jobs as one stack and leave in each job's folder what `mupl.training.run` would.

    Jobs that another process trains are left to it. Those with a result go along, so that the
    others train as before. Every `save_every` seconds, or less often where that would take more
    than 5 % of the time, a checkpoint goes to the folder `states`, from which the same jobs go on.
    Going out of memory halves the stack; a job that is out of memory alone becomes a failed row.

    Raises:
        SystemExit: on one of `mupl.signals.ENDING`, after a checkpoint; the exit code is 128 + the
            signal's number.
    """
    with claimed([job.folder for job in jobs if not job.is_done()]) as taken:
        mine = [job for job in jobs if job.folder in taken or job.is_done()]
        for other in {str(holder(job.folder)) for job in jobs if job not in mine}:
            print(f"{title}: {other} trains jobs of it", flush=True)
        if not all(job.is_done() for job in mine):
            _train_or_halve(mine, states, save_every, title)


def _train_or_halve(jobs: Sequence[Job], states: Path, save_every: float, title: str) -> None:
    try:
        with noted() as interrupted:
            return _train(jobs, states, save_every, title, interrupted)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}"
    # outside of the except block, as the traceback holds the tensors
    gc.collect()
    torch.cuda.empty_cache()
    if len(jobs) == 1:
        jobs[0].write({"status": "failed", "error": reason})
        return
    half = len(jobs) // 2
    print(f"{title}: out of memory with {len(jobs)} members: going on with halves", flush=True)
    for part in (jobs[:half], jobs[half:]):
        _train_or_halve(part, states, save_every, title)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)  # torch's error on a CPU has no class of its own


def _train(
    jobs: Sequence[Job],
    states: Path,
    save_every: float,
    title: str,
    interrupted: Callable[[], int],
) -> None:
    started = time.perf_counter()
    config = jobs[0].config
    stack = _build_stack(jobs)
    recorder, table = _recorder(jobs, stack)
    ids, provenance = [job.id for job in jobs], jobs[0].row["provenance"]
    checkpoint = Checkpoint(states, ids, provenance, stack, save_every)
    # closed at the end: its hooks and copies of weights would keep the stack in memory
    with recorder or nullcontext():
        _fit(stack, config.trainer, recorder, checkpoint, title, interrupted)
    seconds = round((time.perf_counter() - started) / len(jobs), 3)
    write_members(jobs, stack, checkpoint.validation, recorder, table, seconds)
    checkpoint.delete()
    if interrupted():
        leave(interrupted(), f"{title}, at its end: its results are written; {AGAIN}")


def _build_stack(jobs: Sequence[Job]) -> Stack:
    config = jobs[0].config
    precision = config.trainer.precision
    device = device_of(config)
    if device.type == "cuda":
        # a stack before this one: its compiled functions refer to themselves and to its weights
        gc.collect()
        torch.cuda.empty_cache()
    use_precision(precision)
    splits = instantiate(config.data)
    flops = len(jobs) * step_flops(jobs[0].setup.infos, splits, config.batch_size)
    set_threads(config.threads, flops, device)
    return Stack(
        [job.setup for job in jobs],
        splits,
        batch_size=config.batch_size,
        max_steps=config.trainer.max_steps,
        clip=[job.config.trainer.gradient_clip_val for job in jobs],
        device=device,
        dtype=torch.float64 if precision == "64-true" else torch.float32,
        autocast=torch.bfloat16 if precision == "bf16-mixed" else None,
    )


def _fit(
    stack: Stack,
    trainer: DictConfig,
    recorder: Recorder | None,
    checkpoint: Checkpoint,
    title: str,
    interrupted: Callable[[], int],
) -> None:
    """Train to the end, or until every member has diverged, and validate.

    A recorded training has no checkpoints, as what is recorded is not saved: it starts anew.
    """
    if recorder is None:
        checkpoint.load()
    validate_every = trainer.val_check_interval
    if trainer.get("limit_val_batches") == 0:
        validate_every = 0
    with _progress(title, stack) as show:
        while stack.k < stack.max_steps:
            until = _next_multiple(stack.k, trainer.log_every_n_steps)
            if validate_every:
                until = min(until, _next_multiple(stack.k, validate_every))
            stack.train(min(stack.max_steps, until), interrupted, recorder)
            diverged = stack.diverged()
            if validate_every and stack.k % validate_every == 0:
                checkpoint.validation[stack.k] = stack.evaluate()
            show()
            if interrupted():
                kept = "it starts anew, as what is recorded is not saved"
                if recorder is None:
                    checkpoint.save()
                    kept = f"its state is in {checkpoint.file}"
                when = f"{title}, step {stack.k} of {stack.max_steps}"
                leave(interrupted(), f"{when}: {kept}; {AGAIN}")
            if all(step is not None for step in diverged):
                break
            if recorder is None:
                checkpoint.save_sometimes()


def _next_multiple(k: int, n: int) -> int:
    """The smallest multiple of n above k."""
    return (k // n + 1) * n


def _recorder(jobs: Sequence[Job], stack: Stack) -> tuple[Recorder | None, str]:
    """The recorder of the jobs' coordinate statistics, if any, and the name of its table."""
    for name, entry in jobs[0].config.callbacks.items():
        callback: Any = instantiate(entry)
        if not callback.effective:
            raise NotStackable(
                "callbacks.coordinates.effective=false: a stack has effective weights only"
            )
        columns = [dict(job.config.callbacks[name].get("columns", {})) for job in jobs]
        predict = [member.expected_exponents for member in stack.members]
        return callback.stacked(stack.model, stack.optimizer, predict, columns), callback.file
    return None, ""


@contextmanager
def _progress(title: str, stack: Stack) -> Iterator[Callable[[], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(title, total=stack.max_steps)
        yield lambda: progress.update(task, completed=stack.k)
