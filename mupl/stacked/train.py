"""Training jobs of a sweep as one stack, from their configs to the files in their folders."""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mupl.claims import claimed, holder
from mupl.signals import leave, noted
from mupl.stacked.checkpoint import Checkpoint, validation_of
from mupl.stacked.member import Job
from mupl.stacked.output import write_members
from mupl.stacked.rules import NotStackable
from mupl.stacked.stack import Stack
from mupl.stacked.state import part_of
from mupl.stats.recorder import Recorder
from mupl.training.config import use_precision
from mupl.training.threads import set_threads, step_flops
from mupl.tuning.halving import Halving

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
    """Train to the end, in a smaller stack after each rung of a halving."""
    training = _Training(jobs, states, save_every, title)
    recorder, table = _recorder(jobs, training.stack)
    if recorder is None:
        training.checkpoint.load()
    # closed at the end: its hooks and copies of weights would keep the stack in memory
    with recorder or nullcontext():
        while _fit(training, recorder, interrupted):
            training.pass_rung()
    if training.jobs:
        training.write(recorder, table)
    training.checkpoint.delete()
    if interrupted():
        leave(interrupted(), f"{title}, at its end: its results are written; {AGAIN}")


class _Training:
    """A stack in training, which loses members at the rungs of a halving.

    Attributes:
        jobs: the members.
        config: of the first of them; what the loop reads of it is the same for all.
    """

    def __init__(self, jobs: Sequence[Job], states: Path, save_every: float, title: str) -> None:
        self.jobs = list(jobs)
        self.config = jobs[0].config
        self.title = title
        self.halving = Halving.of(self.config)
        self._states = states
        self._save_every = save_every
        self._since = time.perf_counter()
        self._seconds = 0.0  # that each member took
        self.stack = _build_stack(self.jobs)
        self.checkpoint = self._new_checkpoint()

    def _new_checkpoint(self) -> Checkpoint:
        ids, provenance = [job.id for job in self.jobs], self.jobs[0].row["provenance"]
        return Checkpoint(self._states, ids, provenance, self.stack, self._save_every)

    @property
    def next_rung(self) -> int:
        """The number of updates after which the next rung comes; max_steps if there is none."""
        steps = [*self.halving.steps(self.stack.max_steps), self.stack.max_steps]
        return steps[self.checkpoint.rungs]

    def write(
        self,
        recorder: Recorder | None = None,
        table: str = "",
        ended: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write the results of members that have ended; see `write_members`."""
        now = time.perf_counter()
        self._seconds += (now - self._since) / len(self.jobs)
        self._since = now
        validation, seconds = self.checkpoint.validation, round(self._seconds, 3)
        write_members(self.jobs, self.stack, validation, recorder, table, seconds, ended)

    def pass_rung(self) -> None:
        """Write the results of the members that lose, and go on without them."""
        ended = self._ended()
        self.checkpoint.rungs += 1
        if not ended:
            return
        self.write(ended=ended)
        left = [i for i in range(len(self.jobs)) if i not in ended]
        step = f"step {self.stack.k} of {self.stack.max_steps}"
        print(f"{self.title}, {step}: {len(left)} of {len(self.jobs)} jobs go on", flush=True)
        self.jobs = [self.jobs[i] for i in left]
        if self.jobs:
            self._shrink(left)

    def _ended(self) -> dict[int, dict[str, Any]]:
        """The members that do not go on, and what goes over the outcome of each."""
        validation: dict[str, list[float]] = {}
        losses = self.stack.mean_losses()
        if self.halving.metric == "val_loss" and self.config.trainer.get("limit_val_batches") != 0:
            validation = self.stack.evaluate()
            losses = validation["val_loss"]
        diverged = self.stack.diverged()
        configs = [job.row["config"] for job in self.jobs]
        ended: dict[int, dict[str, Any]] = {}
        for i in self.halving.losers(self.checkpoint.rungs, configs, losses):
            ended[i] = {}
            if diverged[i] is None:
                ended[i] = {name: values[i] for name, values in validation.items()}
                ended[i] |= {"status": "dropped", "halving": self.halving.plain()}
        return ended

    def _shrink(self, left: Sequence[int]) -> None:
        """Put these members into a stack of their own, with a checkpoint in place of the last."""
        state = part_of(self.stack.state_dict(), left)
        before = self.checkpoint
        before.release()
        del self.stack  # two of them may not fit into the memory
        self.stack = _build_stack(self.jobs)
        self.stack.load_state_dict(state)
        self.checkpoint = self._new_checkpoint()
        self.checkpoint.validation = validation_of(before.validation, left)
        self.checkpoint.rungs = before.rungs
        self.checkpoint.save()
        before.delete()


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


def _fit(training: _Training, recorder: Recorder | None, interrupted: Callable[[], int]) -> bool:
    """Train to the next rung, or to the end, or until every member has diverged, and validate.

    A recorded training has no checkpoints, as what is recorded is not saved: it starts anew.

    Returns:
        Whether a rung is reached.
    """
    stack, checkpoint, trainer = training.stack, training.checkpoint, training.config.trainer
    rung = training.next_rung
    validate_every = trainer.val_check_interval
    if trainer.get("limit_val_batches") == 0:
        validate_every = 0
    with _progress(training.title, stack) as show:
        while stack.k < rung and training.jobs:
            until = min(rung, _next_multiple(stack.k, trainer.log_every_n_steps))
            if validate_every:
                until = min(until, _next_multiple(stack.k, validate_every))
            stack.train(until, interrupted, recorder)
            diverged = stack.diverged()
            if validate_every and stack.k % validate_every == 0:
                checkpoint.validation[stack.k] = stack.evaluate()
            show()
            if interrupted():
                kept = "it starts anew, as what is recorded is not saved"
                if recorder is None:
                    checkpoint.save()
                    kept = f"its state is in {checkpoint.file}"
                when = f"{training.title}, step {stack.k} of {stack.max_steps}"
                leave(interrupted(), f"{when}: {kept}; {AGAIN}")
            if all(step is not None for step in diverged):
                return False
            if recorder is None:
                checkpoint.save_sometimes()
    return bool(training.jobs) and rung < stack.max_steps


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
