"""The stacks of a sweep: jobs are put into them, and they are trained here or elsewhere."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from mupl.claims import holder
from mupl.errors import ConfigError, bad_input, disk_error
from mupl.stacked import plan
from mupl.stacked.cohorts import (
    ALONE,
    Rival,
    late,
    losses_of,
    read_cohorts,
    remember_cohorts,
    remember_loss,
)
from mupl.stacked.describe import flops, nbytes
from mupl.stacked.devices import ProcessEnded, environments, on_devices
from mupl.stacked.executors import EXECUTORS, Submission, Submit, Task, here
from mupl.stacked.member import Job
from mupl.stacked.options import Options
from mupl.stacked.rules import NotStackable
from mupl.stacked.train import AGAIN, Waiting, device_of, train_stack
from mupl.tuning.halving import Halving

# Bytes of one stack on a CPU (weights, gradients, state): more does not stay in the cache and is
# slower
CPU_BYTES = 45e6
GPU_SHARE = 0.85  # of the free memory: the estimate does not know of everything

POLL = 0.1  # seconds between two looks at stacks that are trained elsewhere

Ended = Callable[[Sequence[Job]], None]  # is told of the jobs of each stack that has ended


@dataclass(eq=False)
class _Stack:
    """Jobs that are trained as one model.

    Args:
        rivals: the jobs that they are compared with at the rungs of a halving, and they themselves.
        rung: at which they wait for others.
    """

    jobs: list[Job]
    title: str
    rivals: list[Rival]
    rung: str = ""


def train_stacks(
    begun: Sequence[list[str]],
    missing: Mapping[str, Job],
    known: Mapping[str, Job],
    states: Path,
    options: Options,
    ended: Ended,
) -> set[str]:
    """Train jobs in stacks; those that cannot be stacked are left without results.

    Args:
        begun: the stacks that were begun earlier, as the ids of their jobs then. They come first.
        missing: the jobs that are to be trained, by id.
        known: all jobs of the sweep, by id.
        states: folder of the stacks' checkpoints.

    Returns:
        The ids of the jobs that wait at a rung for others, which another process did not train to
        it.
    """
    has_gpu = torch.cuda.is_available()
    on_gpu = has_gpu and any(job.config.trainer.accelerator != "cpu" for job in missing.values())
    devices = environments(options.devices, on_gpu)
    # members that are done go along, so that the others train as before
    stacks = [[known[id] for id in ids if id in known] for ids in begun]
    in_begun = {id for ids in begun for id in ids}
    rest = [job for job in missing.values() if job.id not in in_begun]
    groups = _groups(rest)
    if next(iter(missing.values())).config.halving.rungs:
        groups = _cohorts(groups, known, states)
    stacks += _new_stacks(groups, options, len(devices))
    if len(devices) > 1:
        stacks.sort(key=_cost, reverse=True)
    titled = []
    for number, jobs in enumerate(stacks, start=1):
        titled.append(_Stack(jobs, f"stack {number} of {len(stacks)}", []))
    _find_rivals(titled, known, states)
    if not titled:
        return set()
    queue = _Queue(titled, known, states, options, ended)
    return queue.run(_executor(options, devices, states))


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs that can be stacked, by shape, and say why others cannot."""
    groups: dict[str, list[Job]] = {}
    reasons: Counter[str] = Counter()
    for job in jobs:
        try:
            job.setup  # noqa: B018  (describes it, which finds bad input)
            groups.setdefault(plan.shape_key(job.config), []).append(job)
        except Exception as error:  # it runs alone, which reports any error in its row
            if isinstance(error, NotStackable) or not isinstance(bad_input(error), ConfigError):
                reasons[str(error)] += 1
    for reason, count in reasons.items():
        to_the_end = ", to the end" if jobs[0].config.halving.rungs else ""
        print(f"{count} of {len(jobs)} jobs run one by one{to_the_end}: {reason}", flush=True)
    return list(groups.values())


def _cohorts(
    groups: Iterable[list[Job]], known: Mapping[str, Job], states: Path
) -> list[list[Job]]:
    """Return groups of which each belongs to one cohort of a halving, and write down new cohorts.

    Jobs of a cohort that are done, but have no loss at the first rung, go along: they were trained
    without this halving, and the others are compared with them.
    """
    cohort_of = _by_id(read_cohorts(states))
    found: list[list[Job]] = []
    for group in groups:
        parts: dict[int, list[Job]] = {}
        for job in group:
            cohort = cohort_of.get(job.id)
            parts.setdefault(id(cohort), []).append(job)
        for part in parts.values():
            first = part[0]
            rung = Halving.of(first.config).names(first.config.trainer.max_steps)[0]
            cohort = cohort_of.get(first.id, [])
            for other in [known[id] for id in cohort if id in known]:
                if other.is_done() and rung not in losses_of(other.folder):
                    part.append(other)
            found.append(part)
    new = []
    for part in found:
        if part[0].id not in cohort_of:
            new.append([job.id for job in part])
    remember_cohorts(states, new)
    return found


def _find_rivals(stacks: Iterable[_Stack], known: Mapping[str, Job], states: Path) -> None:
    """Tell stacks of a halving who their jobs are compared with."""
    cohort_of = _by_id(read_cohorts(states))
    for stack in stacks:
        first = stack.jobs[0]
        if first.config.halving.rungs:
            ids = cohort_of.get(first.id, [job.id for job in stack.jobs])
            stack.rivals = [known[id].rival for id in ids if id in known]


def _by_id(cohorts: Iterable[list[str]]) -> dict[str, list[str]]:
    """Return the cohort of each job."""
    found = {}
    for ids in cohorts:
        for id in ids:
            found[id] = ids
    return found


def _new_stacks(groups: Sequence[list[Job]], options: Options, devices: int) -> list[list[Job]]:
    """Put jobs into stacks; on several devices none takes more than its device's share."""
    if devices == 1:
        parts = [1] * len(groups)
    else:
        costs = [_cost(group) for group in groups]
        parts = plan.parts(costs, devices)
    stacks = []
    for group, count in zip(groups, parts, strict=True):
        share = math.ceil(len(group) / count)
        limit = min(_limit(group[0], options), share)
        stacks += plan.split(group, limit, seed=lambda job: job.config.seed)
    return stacks


def _cost(jobs: Sequence[Job]) -> float:
    """Estimate the work of jobs of one shape."""
    return len(jobs) * flops(jobs[0].config, jobs[0].setup)


def _limit(job: Job, options: Options) -> int:
    """How many members like `job` one stack may have."""
    if options.memory_gb is not None:
        budget = options.memory_gb * 1e9
    elif device_of(job.config).type == "cuda":
        budget = torch.cuda.mem_get_info()[0] * GPU_SHARE
    else:
        budget = CPU_BYTES
    limit = max(1, int(budget / nbytes(job.config, job.setup)))
    return limit if options.max_members is None else min(limit, options.max_members)


def _executor(
    options: Options, devices: Sequence[Mapping[str, str]], states: Path
) -> AbstractContextManager[Submit]:
    if options.executor is not None:
        return EXECUTORS[options.executor](states.parent, options.resources)
    return here() if len(devices) == 1 else on_devices(devices)


class _Queue:
    """Stacks that are to be trained, that are trained, and that wait at a rung for others."""

    def __init__(
        self,
        stacks: Iterable[_Stack],
        known: Mapping[str, Job],
        states: Path,
        options: Options,
        ended: Ended,
    ) -> None:
        self._stacks = list(stacks)
        self._known = known
        self._states = states
        self._options = options
        self._ended = ended
        self._running: list[tuple[_Stack, Submission]] = []
        self._waiting: list[_Stack] = []
        self._dead: list[str] = []  # titles of stacks whose process is gone, and why

    def run(self, executor: AbstractContextManager[Submit]) -> set[str]:
        """Train the stacks, and return the ids of jobs that wait for others in vain.

        Raises:
            SystemExit: when the others have ended, if the process of a stack is gone.
        """
        with executor as submit:
            while self._stacks or self._running or self._others_come():
                if self._stacks:
                    stack = self._stacks.pop(0)
                    self._running.append((stack, submit(self._task(stack))))
                over = [pair for pair in self._running if pair[1].has_ended()]
                for stack, submission in over:
                    self._running.remove((stack, submission))
                    self._end(stack, submission)
                if over or not self._running:
                    self._resume()
                if not over and not self._stacks:
                    time.sleep(POLL)
        if self._dead:
            sys.exit(f"error: {'; '.join(self._dead)}; {AGAIN}")
        return {job.id for stack in self._waiting for job in stack.jobs}

    def _task(self, stack: _Stack) -> Task:
        if not stack.rung:  # else it was announced before
            steps = stack.jobs[0].config.max_steps
            print(f"{stack.title}: {len(stack.jobs)} jobs, {steps} steps", flush=True)
        save_every = self._options.save_every
        return partial(train_stack, stack.jobs, self._states, save_every, stack.title, stack.rivals)

    def _end(self, stack: _Stack, submission: Submission) -> None:
        """Do what is to be done when a stack has ended, has failed, or waits at a rung."""
        parts: list[Waiting] = []
        try:
            parts = submission.result()
        except ProcessEnded as error:
            self._dead.append(f"{stack.title}: {error}")
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if self._options.executor is not None:
                _fail(stack.jobs, f"{stack.title}: {reason}")
            elif disk_error(error):  # which would fail one by one as well
                raise
            else:
                print(f"{stack.title}: {reason}: its jobs run one by one", flush=True)
                _leave_cohort(stack)
        for part in parts:
            jobs = [self._known[id] for id in part.ids]
            self._waiting.append(replace(stack, jobs=jobs, rung=part.rung))
        self._ended(stack.jobs)

    def _resume(self) -> None:
        """Let the stacks go on whose whole cohort has come to their rung."""
        for stack in list(self._waiting):
            if not late(stack.rivals, stack.rung):
                self._waiting.remove(stack)
                self._stacks.append(stack)

    def _others_come(self) -> bool:
        """Whether another process trains a job that a stack here waits for."""
        for stack in self._waiting:
            if any(holder(rival.folder) for rival in late(stack.rivals, stack.rung)):
                return True
        return False


def _fail(jobs: Iterable[Job], error: str) -> None:
    """Let jobs be failed rows: this machine is not the one that was to train them."""
    for job in jobs:
        if not job.is_done():
            job.write({"status": "failed", "error": error})


def _leave_cohort(stack: _Stack) -> None:
    """Let nobody wait at a rung for the jobs of a stack that failed."""
    if stack.rivals:
        for job in stack.jobs:
            remember_loss(job.folder, ALONE, 0)
