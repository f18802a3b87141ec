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

from mupl.stacked.checkpoint import State, delete_state
from mupl.stacked.member import Job
from mupl.stacked.output import write_members
from mupl.stacked.rules import NotStackable
from mupl.stacked.stack import Stack
from mupl.stats.recorder import Recorder


def device_of(config: DictConfig) -> torch.device:
    """Raises NotStackable where the accelerator that is asked for is not there."""
    wanted = config.trainer.accelerator
    there = torch.cuda.is_available()
    if wanted not in ("auto", "cpu") and not there:
        raise NotStackable(f"trainer.accelerator={wanted}: there is none")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def train_stack(jobs: Sequence[Job], states: Path, save_every: float, title: str) -> None:
    """Train the jobs as one stack and leave in each job's folder what `mupl.training.run` would.

    Going out of memory halves the stack. Every `save_every` seconds, or less often where that would take more than
    5 % of the time, the state goes to the folder `states`, from which the same jobs go on.

    A job that is out of memory alone becomes a failed row.

    Raises:
        SystemExit: on SIGINT or SIGTERM, when the state is saved; the exit code is 128 + the signal's number.
    """
    try:
        with _until_signal() as interrupted:
            return _train(jobs, states, save_every, title, interrupted)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(
            error, MemoryError | torch.OutOfMemoryError
        ) and "can't allocate memory" not in str(error):
            raise
        reason = f"{type(error).__name__}: {error}"
    gc.collect()  # out of the except block: its traceback holds the tensors
    torch.cuda.empty_cache()
    if len(jobs) == 1:
        jobs[0].write({"status": "failed", "error": reason})
        return
    half = len(jobs) // 2
    print(f"{title}: out of memory with {len(jobs)} members: going on with halves", flush=True)
    for part in (jobs[:half], jobs[half:]):
        train_stack(part, states, save_every, title)


def _train(
    jobs: Sequence[Job], states: Path, save_every: float, title: str, interrupted: Callable[[], int]
) -> None:
    started = time.perf_counter()
    config = jobs[0].config
    trainer, device = config.trainer, device_of(config)
    if device.type == "cuda":
        gc.collect()  # of a stack before this one, what is compiled refers to itself and to the weights
        torch.cuda.empty_cache()
    torch.set_float32_matmul_precision("high" if trainer.precision == "tf32" else "highest")
    stack = Stack(
        [job.setup for job in jobs],
        instantiate(config.data),
        batch_size=config.batch_size,
        max_steps=trainer.max_steps,
        clip=[job.config.trainer.gradient_clip_val for job in jobs],
        device=device,
        dtype=torch.float64 if trainer.precision == "64-true" else torch.float32,
        autocast=torch.bfloat16 if trainer.precision == "bf16-mixed" else None,
    )
    recorder, table = _recorder(jobs, stack)
    state = State(states, [job.id for job in jobs], stack, save_every)
    with (
        recorder or nullcontext()
    ):  # whose hooks and copies of weights would keep the stack in memory
        _fit(stack, trainer, recorder, state, title, interrupted)
    seconds = round((time.perf_counter() - started) / len(jobs), 3)
    write_members(jobs, stack, state.validation, recorder, table, seconds)
    delete_state(state.file)
    if interrupted():
        _exit(interrupted(), title, "at its end: its results are written")


def _fit(
    stack: Stack,
    trainer: DictConfig,
    recorder: Recorder | None,
    state: State,
    title: str,
    interrupted: Callable[[], int],
) -> None:
    """Train to the end, or until every member has diverged, and validate."""
    state.load()
    validate_every = 0 if trainer.get("limit_val_batches") == 0 else trainer.val_check_interval
    every = [n for n in (trainer.log_every_n_steps, validate_every) if n]
    with _progress(title, stack) as show:
        while stack.k < stack.max_steps:
            stack.train(
                min(stack.max_steps, *(stack.k - stack.k % n + n for n in every)),
                interrupted,
                recorder,
            )
            diverged = stack.diverged()
            if validate_every and stack.k % validate_every == 0:
                state.validation[stack.k] = stack.evaluate()
            show()
            if interrupted():
                kept = "it starts anew, as what is recorded is not saved"
                if recorder is None:
                    state.save()
                    kept = f"its state is in {state.file}"
                _exit(interrupted(), title, f"at step {stack.k} of {stack.max_steps}: {kept}")
            if all(step is not None for step in diverged):
                break
            if recorder is None:  # whose rows are not saved: a recorded training starts anew
                state.save_sometimes()


def _exit(number: int, title: str, when: str) -> NoReturn:
    text = f"{title}: {signal.Signals(number).name} {when}; the same command goes on from here"
    print(text, file=sys.stderr, flush=True)
    sys.exit(128 + number)


def _recorder(jobs: Sequence[Job], stack: Stack) -> tuple[Recorder | None, str]:
    """The recorder of the jobs' coordinate statistics, if they have such a callback, and the name of its table."""
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
    """Yields a function that says which of SIGINT and SIGTERM has arrived, or 0; a second one has its usual effect."""
    arrived = 0
    with ExitStack() as restored:

        def handle(number: int, frame: Any) -> None:
            nonlocal arrived
            arrived = number
            restored.close()

        if (
            threading.current_thread() is threading.main_thread()
        ):  # in others Python allows no handlers
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
