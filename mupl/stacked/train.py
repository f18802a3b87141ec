"""Training jobs of a sweep as one stack, from their configs to the files in their folders."""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from mupl.claims import claimed, holder
from mupl.signals import leave, noted
from mupl.stacked.checkpoint import Checkpoint, validation_of
from mupl.stacked.cohorts import Rival, late, left, remember_loss
from mupl.stacked.member import Job
from mupl.stacked.memory import keep_freed_memory
from mupl.stacked.output import write_members
from mupl.stacked.progress import progress
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


class Waiting(NamedTuple):
    """A stack whose state is saved at a rung, where jobs of its cohort have not come yet."""

    ids: list[str]  # of its jobs
    rung: str


def train_stack(
    jobs: Sequence[Job],
    states: Path,
    save_every: float,
    title: str,
    rivals: Sequence[Rival],
) -> list[Waiting]:
    """Train the jobs as one stack and leave in each job's folder what `mupl.training.run` would.

    Jobs that another process trains are left to it. Those with a result go along, so that the
    others train as before. Every `save_every` seconds, or less often where that would take more
    than 5 % of the time, a checkpoint goes to the folder `states`, from which the same jobs go on.
    Going out of memory halves the stack; a job that is out of memory alone becomes a failed row.

    Args:
        rivals: the jobs of their cohort, in this stack and in others, if the sweep is halved.

    Returns:
        What has come to a rung before other jobs of the cohort; it goes on by another call. Nothing
        if all jobs have ended.

    Raises:
        SystemExit: on one of `mupl.signals.ENDING`, after a checkpoint; the exit code is 128 + the
            signal's number.
    """
    with claimed([job.folder for job in jobs if not job.is_done()]) as taken:
        mine = [job for job in jobs if job.folder in taken or job.is_done()]
        for other in {str(holder(job.folder)) for job in jobs if job not in mine}:
            print(f"{title}: {other} trains jobs of it", flush=True)
        if all(job.is_done() for job in mine):
            return []
        return _train_or_halve(mine, states, save_every, title, rivals)


def _train_or_halve(
    jobs: Sequence[Job], states: Path, save_every: float, title: str, rivals: Sequence[Rival]
) -> list[Waiting]:
    try:
        with noted() as interrupted:
            return _train(_Training(jobs, states, save_every, title, rivals), interrupted)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}"
    # outside of the except block, as the traceback holds the tensors
    gc.collect()
    torch.cuda.empty_cache()
    if len(jobs) == 1:
        jobs[0].write({"status": "failed", "error": reason})
        return []
    half = len(jobs) // 2
    print(f"{title}: out of memory with {len(jobs)} members: going on with halves", flush=True)
    waiting = []
    for part in (jobs[:half], jobs[half:]):
        waiting += _train_or_halve(part, states, save_every, title, rivals)
    return waiting


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)  # torch's error on a CPU has no class of its own


def _train(training: "_Training", interrupted: Callable[[], int]) -> list[Waiting]:
    """Train to the end, or to a rung of a halving where jobs of other stacks have not come yet."""
    recorder, table = _recorder(training.jobs, training.stack)
    if recorder is None:
        training.checkpoint.load()
    # closed at the end: its hooks and copies of weights would keep the stack in memory
    with recorder or nullcontext():
        while _fit(training, recorder, interrupted):
            if not training.pass_rung():
                training.checkpoint.save()
                return [Waiting([job.id for job in training.jobs], training.rung)]
    if training.jobs:
        training.write(recorder, table)
    training.checkpoint.delete()
    if interrupted():
        leave(interrupted(), f"{training.title}, at its end: its results are written; {AGAIN}")
    return []


class _Training:
    """A stack in training, which loses members at the rungs of a halving.

    It shrinks once half of its members are lost or more, as each size may have to be compiled: so
    there are at most 1 + log2(S) sizes. Until then those that were dropped are trained along.

    Attributes:
        jobs: the members.
        config: of the first of them; what the loop reads of it is the same for all.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        states: Path,
        save_every: float,
        title: str,
        rivals: Sequence[Rival],
    ) -> None:
        self.jobs = list(jobs)
        self.config = jobs[0].config
        self.title = title
        self.halving = Halving.of(self.config)
        self._rivals = rivals
        self._states = states
        self._save_every = save_every
        self._since = time.perf_counter()
        self._seconds = 0.0  # that each member took
        self.stack = _build_stack(self.jobs)
        self.checkpoint = self._new_checkpoint()

    def _new_checkpoint(self) -> Checkpoint:
        ids = [job.id for job in self.jobs]
        provenance = self.jobs[0].row["provenance"]
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
        self._seconds += (now - self._since) / max(1, len(self._members_left()))
        self._since = now
        validation = self.checkpoint.validation
        seconds = round(self._seconds, 3)
        write_members(self.jobs, self.stack, validation, recorder, table, seconds, ended)

    @property
    def rung(self) -> str:
        """The name of the next rung."""
        return self._rungs[self.checkpoint.rungs]

    @property
    def _rungs(self) -> list[str]:
        return self.halving.names(self.stack.max_steps)

    def _members_left(self) -> list[int]:
        """The members that were not dropped at the rungs so far."""
        ids = left(self._rivals, self.halving, self._rungs[: self.checkpoint.rungs])
        return [i for i, job in enumerate(self.jobs) if not self._rivals or job.id in ids]

    def pass_rung(self) -> bool:
        """Write the results of the members that lose, and go on without them.

        Returns:
            False if jobs of the cohort have not come to this rung, so that nothing is compared yet.
        """
        members = self._members_left()
        validation: dict[str, list[float]] = {}
        losses = self.stack.mean_losses()
        if self.halving.metric == "val_loss" and self.config.trainer.get("limit_val_batches") != 0:
            validation = self.stack.evaluate()
            losses = validation["val_loss"]
        diverged = self.stack.diverged()  # their weights are 0 now, which have a finite loss
        for i in members:
            loss = losses[i] if diverged[i] is None else math.nan
            remember_loss(self.jobs[i].folder, self.rung, loss)
        if late(self._rivals, self.rung):
            return False
        self.checkpoint.rungs += 1
        going_on = self._members_left()
        lost = sorted(set(members) - set(going_on))
        self.write(ended=self._ended(lost, validation))
        if lost:
            step = f"step {self.stack.k} of {self.stack.max_steps}"
            count = f"{len(going_on)} of {len(members)} jobs go on"
            print(f"{self.title}, {step}: {count}", flush=True)
        if 2 * len(going_on) <= len(self.jobs):
            self._shrink(going_on)
        return True

    def _ended(
        self, lost: Sequence[int], validation: Mapping[str, Sequence[float]]
    ) -> dict[int, dict[str, Any]]:
        """What goes over the outcome of each member that does not go on."""
        diverged = self.stack.diverged()
        ended: dict[int, dict[str, Any]] = {}
        for i in lost:
            ended[i] = {}
            if diverged[i] is None:
                ended[i] = {name: values[i] for name, values in validation.items()}
                ended[i] |= {"status": "dropped", "halving": self.halving.plain()}
        return ended

    def _shrink(self, members: Sequence[int]) -> None:
        """Put these members into a stack of their own, with a checkpoint in place of the last."""
        self.jobs = [self.jobs[i] for i in members]
        if not self.jobs:
            return
        state = part_of(self.stack.state_dict(), members)
        before = self.checkpoint
        before.release()
        del self.stack  # two of them may not fit into the memory
        self.stack = _build_stack(self.jobs)
        self.stack.load_state_dict(state)
        self.checkpoint = self._new_checkpoint()
        self.checkpoint.validation = validation_of(before.validation, members)
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
    else:
        keep_freed_memory()
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
    stack = training.stack
    checkpoint = training.checkpoint
    trainer = training.config.trainer
    rung = training.next_rung
    validate_every = trainer.val_check_interval
    if trainer.get("limit_val_batches") == 0:
        validate_every = 0
    with progress(training.title, stack.max_steps) as show:
        while stack.k < rung and training.jobs:
            until = min(rung, _next_multiple(stack.k, trainer.log_every_n_steps))
            if validate_every:
                until = min(until, _next_multiple(stack.k, validate_every))
            stack.train(until, interrupted, recorder)
            diverged = stack.diverged()
            if validate_every and stack.k % validate_every == 0:
                checkpoint.validation[stack.k] = stack.evaluate()
            show(stack.k)
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
