"""Training jobs of a sweep as one stack, from their configs to the files in their folders."""

import gc
import hashlib
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mupl.data.splits import Splits
from mupl.data.text import Tokens
from mupl.jobs import RESULT_FILE, write_atomically, write_result
from mupl.optim.stacked_rules import NotStackable, stackable
from mupl.stats.callback import CoordinateStats, metrics_by_step
from mupl.stats.recorder import Recorder
from mupl.training.callbacks import VALIDATION, outcome
from mupl.training.check import check
from mupl.training.module import TrainingModule
from mupl.training.run import build_module, show_parametrization
from mupl.training.stack import Stack, check_stackable

Row = tuple[int, dict[str, float]]  # of metrics.csv: step and values
Validation = dict[int, dict[str, float]]  # a member's, by updates done

DISK = 1e9  # bytes a second, a guess until the first state is saved
SAVING = 0.05  # share of the time that may be spent on saving states


@dataclass
class Job:
    """A run of a sweep.

    Args:
        id: see `mupl.jobs.job_id`.
        config: resolved, without Hydra's part.
        identity: the columns of its row of results that tell it from the others.
        folder: where its files go.
    """

    id: str
    config: DictConfig
    identity: dict[str, Any]
    folder: Path

    @cached_property
    def module(self) -> TrainingModule:
        """Its module, without weights.

        Raises:
            ConfigError: on bad input.
            NotStackable: if its data, its model or its optimizer cannot be stacked.
        """
        check(self.config)
        splits = instantiate(self.config.data)
        if not isinstance(splits, Splits | Tokens):
            raise NotStackable(f"data: {self.config.data['_target_']} returns neither Splits nor Tokens")
        with torch.device("meta"):
            module = build_module(self.config, splits.model_args)
        check_stackable(module)
        stackable(module.optimizer_class)
        module.build_optimizer()  # finds options that are bad: in a stack they would stop the others too
        return module

    def outputs(self) -> int:
        """What the model says of a batch: one class an image, or one token after each."""
        splits = instantiate(self.config.data)
        return self.config.batch_size * (splits.context if isinstance(splits, Tokens) else 1)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "module"}  # which is described anew


class Interrupted(SystemExit):
    """By a signal, after the state was saved; the exit code is 128 + the signal's number."""


def device_of(config: DictConfig) -> torch.device:
    """Raises NotStackable where the accelerator that is asked for is not there."""
    wanted = config.trainer.accelerator
    there = torch.cuda.is_available()
    if wanted not in ("auto", "cpu") and not there:
        raise NotStackable(f"trainer.accelerator={wanted}: there is none")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def train_stack(jobs: Sequence[Job], states: Path, save_every: float = 30.0, title: str = "") -> None:
    """Train the jobs as one stack and leave in each job's folder what `mupl.training.run` would.

    Going out of memory halves the stack. Every `save_every` seconds, or less often where that would take more than
    5 % of the time, the state goes to the folder `states`, from which the same jobs go on.

    A job that is out of memory alone becomes a failed row.

    Raises:
        Interrupted: on SIGINT or SIGTERM, when the state is saved.
    """
    try:
        return _train(jobs, states, save_every, title)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}"
    gc.collect()  # out of the except block: its traceback holds the tensors
    torch.cuda.empty_cache()
    if len(jobs) == 1:
        jobs[0].folder.mkdir(parents=True, exist_ok=True)
        write_result(jobs[0].folder, jobs[0].identity | {"status": "failed", "error": reason})
        return
    half = len(jobs) // 2
    print(f"{title}: out of memory with {len(jobs)} members: going on with halves", flush=True)
    for part in (jobs[:half], jobs[half:]):
        train_stack(part, states, save_every, title)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _train(jobs: Sequence[Job], states: Path, save_every: float, title: str) -> None:
    started = time.perf_counter()
    config = jobs[0].config
    trainer = config.trainer
    with _precision(trainer.precision) as precision, _until_signal() as interrupted:
        stack = Stack(
            [job.module for job in jobs],
            instantiate(config.data),
            batch_size=config.batch_size,
            max_steps=trainer.max_steps,
            clip=[job.config.trainer.gradient_clip_val for job in jobs],
            device=device_of(config),
            **precision,
        )
        recorder, table = _recorder(jobs, stack)
        state = _State(states, [job.id for job in jobs], stack, save_every)
        validation = state.load()
        validate_every = 0 if trainer.get("limit_val_batches") == 0 else trainer.val_check_interval
        with _progress(title, stack) as show:
            while stack.k < stack.max_steps:
                every = [n for n in (trainer.log_every_n_steps, validate_every) if n]
                stack.train(min(stack.max_steps, *(stack.k - stack.k % n + n for n in every)), interrupted, recorder)
                diverged = stack.diverged()
                if validate_every and stack.k % validate_every == 0:
                    validation[stack.k] = stack.evaluate()
                show()
                if interrupted():
                    kept = "it starts anew, as what is recorded is not saved"
                    if recorder is None:
                        state.save(validation)
                        kept = f"its state is in {state.file}"
                    name = signal.Signals(interrupted()).name
                    at = f"{title}: {name} at step {stack.k} of {stack.max_steps}"
                    print(f"{at}: {kept}; the same command goes on from here", file=sys.stderr, flush=True)
                    raise Interrupted(128 + interrupted())
                if all(step is not None for step in diverged):
                    break
                if recorder is None:  # whose rows are not saved: a recorded training starts anew
                    state.save_sometimes(validation)
        seconds = round((time.perf_counter() - started) / len(jobs), 3)
        losses, diverged = stack.losses.T.cpu(), stack.diverged()
        for i, job in enumerate(jobs):
            if (job.folder / RESULT_FILE).exists():  # of an earlier time: it went along for the sake of the others
                continue
            first_bad = diverged[i]
            steps = stack.k if first_bad is None else first_bad
            mine = {k: {name: values[i] for name, values in row.items()} for k, row in validation.items()}
            end = stack.k
            if first_bad is not None:
                end = min(stack.max_steps, (steps // trainer.log_every_n_steps + 1) * trainer.log_every_n_steps)
                _forget_frozen(losses[i], mine, steps, end if validate_every else None)
            job.folder.mkdir(parents=True, exist_ok=True)
            show_parametrization(job.module, job.folder, quiet=True)
            rows: list[Row] = []
            if recorder is not None:
                recorder.write(job.folder / table, member=i)
                rows += metrics_by_step(recorder.rows_of(i)).items()
            rows += _metrics(losses[i], mine, end, trainer.log_every_n_steps, stack.per_epoch)
            _log(job.config, rows)
            last = mine[max(mine)] if mine else {}
            result = outcome(losses[i, :steps], first_bad is not None, last)
            write_result(job.folder, job.identity | result | {"seconds": seconds})
        forget(state.file)


def _forget_frozen(losses: torch.Tensor, validation: Validation, steps: int, end: int | None) -> None:
    """NaN in place of what a member gave after `steps` updates, when it had diverged and lay frozen.

    Args:
        end: the update after which it would be stopped alone, and validated once more; None: without validation.
    """
    losses[steps + 1 :] = math.nan
    later = [k for k in validation if k > steps] + ([] if end is None else [end])
    validation.update({k: dict.fromkeys(VALIDATION, math.nan) for k in later})


def _metrics(losses: torch.Tensor, validation: Validation, end: int, every: int, per_epoch: int) -> list[Row]:
    """The rows that Lightning logs in `end` updates; the step of update number k (from 0) is k."""
    rows = [(step, {"train_loss": float(losses[step])}) for step in range(every - 1, end, every)]
    rows += [(k - 1, values) for k, values in validation.items() if k <= end]
    return [(step, {"epoch": step // per_epoch, **values}) for step, values in rows]


def _log(config: DictConfig, rows: Sequence[Row]) -> None:
    """Through the job's own loggers, and into their files."""
    for entry in config.logger.values():
        logger = instantiate(entry)
        for step, values in sorted(rows, key=lambda row: row[0]):
            logger.log_metrics(values, step)
        logger.save()
        logger.finalize("success")


def _recorder(jobs: Sequence[Job], stack: Stack) -> tuple[Recorder | None, str]:
    """The recorder of the jobs' coordinate statistics, if they have such a callback, and the name of its table."""
    for name, entry in jobs[0].config.callbacks.items():
        callback: CoordinateStats = instantiate(entry)
        columns = [dict(job.config.callbacks[name].get("columns", {})) for job in jobs]
        return callback.stacked(stack, columns), callback.file
    return None, ""


@contextmanager
def _precision(name: str) -> Iterator[dict[str, Any]]:
    """The dtypes of a stack under Lightning's name of a precision, or tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        yield {
            "dtype": torch.float64 if name == "64-true" else torch.float32,
            "autocast": torch.bfloat16 if name == "bf16-mixed" else None,
        }
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _until_signal() -> Iterator[Callable[[], int]]:
    """Yields a function that says which of SIGINT and SIGTERM has arrived, or 0; a second one has its usual effect."""
    arrived = [0]
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield lambda: 0
        return

    def handle(number: int, frame: Any) -> None:
        arrived[0] = number
        restore()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield lambda: arrived[0]
    finally:
        restore()


@contextmanager
def _progress(title: str, stack: Stack) -> Iterator[Callable[[], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(title, total=stack.max_steps)
        yield lambda: progress.update(task, completed=stack.k)


class _State:
    """The file from which a stack goes on, and beside it the ids of its members."""

    def __init__(self, folder: Path, ids: Sequence[str], stack: Stack, save_every: float) -> None:
        self._ids, self._stack, self._folder, self._every = list(ids), stack, folder, save_every
        self.file = folder / f"{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:12]}.pt"
        self._saved_at, self._cost = time.perf_counter(), stack.nbytes() / DISK

    def load(self) -> dict[int, dict[str, list[float]]]:
        """Put the stack where a state of its members was saved, if there is one; returns the validations until then."""
        for file, ids in saved(self._folder):
            if set(self._ids) <= set(ids):
                state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
                chosen = [ids.index(i) for i in self._ids]
                self._stack.load_state_dict(state["stack"], chosen)
                validation = state["validation"]
                return {k: {n: [v[i] for i in chosen] for n, v in row.items()} for k, row in validation.items()}
        return {}

    def save_sometimes(self, validation: dict[int, dict[str, list[float]]]) -> None:
        if time.perf_counter() - self._saved_at >= max(self._every, self._cost / SAVING):
            self.save(validation)

    def save(self, validation: dict[int, dict[str, list[float]]]) -> None:
        started = time.perf_counter()
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        torch.save({"stack": self._stack.state_dict(), "validation": validation}, partial)
        partial.replace(self.file)
        write_atomically(self.file.with_suffix(".json"), json.dumps(self._ids))
        self._saved_at = time.perf_counter()
        self._cost = self._saved_at - started


def saved(folder: Path) -> list[tuple[Path, list[str]]]:
    """The states in a folder, each with the ids of its members; a part of a stack that was halved before the stack."""
    states = [(file.with_suffix(".pt"), json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))]
    return sorted(states, key=lambda state: len(state[1]))


def forget(file: Path) -> None:
    """Remove a state."""
    for suffix in (".json", ".pt"):  # in this order: a state without its members' ids is not found
        file.with_suffix(suffix).unlink(missing_ok=True)
