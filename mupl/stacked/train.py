"""Training jobs of a sweep as one stack, from their configs to the files in their folders."""

import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mupl.stacked.checkpoint import Checkpoint
from mupl.stacked.member import Job
from mupl.stacked.output import write_members
from mupl.stacked.rules import NotStackable
from mupl.stacked.stack import Stack
from mupl.stats.recorder import Recorder
from mupl.training.config import use_precision
from mupl.training.threads import set_threads, step_flops


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

    Every `save_every` seconds, or less often where that would take more than 5 % of the time, a
    checkpoint goes to the folder `states`, from which the same jobs go on. Going out of memory
    halves the stack; a job that is out of memory alone becomes a failed row.

    Raises:
        SystemExit: on SIGINT or SIGTERM, after a checkpoint; the exit code is 128 + the signal's
            number.
    """
    try:
        with _until_signal() as interrupted:
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
        train_stack(part, states, save_every, title)


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
    checkpoint = Checkpoint(states, [job.id for job in jobs], stack, save_every)
    # closed at the end: its hooks and copies of weights would keep the stack in memory
    with recorder or nullcontext():
        _fit(stack, config.trainer, recorder, checkpoint, title, interrupted)
    seconds = round((time.perf_counter() - started) / len(jobs), 3)
    write_members(jobs, stack, checkpoint.validation, recorder, table, seconds)
    checkpoint.file.unlink(missing_ok=True)
    if interrupted():
        _exit(interrupted(), title, "at its end: its results are written")


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
                when = f"at step {stack.k} of {stack.max_steps}: {kept}"
                _exit(interrupted(), title, when)
            if all(step is not None for step in diverged):
                break
            if recorder is None:
                checkpoint.save_sometimes()


def _next_multiple(k: int, n: int) -> int:
    """The smallest multiple of n above k."""
    return (k // n + 1) * n


def _exit(
    number: int,
    title: str,
    when: str,
) -> NoReturn:
    text = f"{title}: {signal.Signals(number).name} {when}; the same command goes on from here"
    print(text, file=sys.stderr, flush=True)
    sys.exit(128 + number)


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
def _until_signal() -> Iterator[Callable[[], int]]:
    """Yield a function that says which of SIGINT and SIGTERM has arrived, or 0.

    A second one has its usual effect.
    """
    arrived = 0
    with ExitStack() as restored:

        def handle(number: int, frame: Any) -> None:
            nonlocal arrived
            arrived = number
            restored.close()

        if threading.current_thread() is threading.main_thread():  # Python allows it in no other
            for number in (signal.SIGINT, signal.SIGTERM):
                restored.callback(signal.signal, number, signal.signal(number, handle))
        yield lambda: arrived


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
