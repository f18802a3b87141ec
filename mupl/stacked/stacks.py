"""The stacks of a sweep: jobs are put into them, and they are trained here or elsewhere."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from mupl.errors import ConfigError, bad_input, disk_error
from mupl.stacked import plan
from mupl.stacked.cohorts import remember_cohorts
from mupl.stacked.describe import nbytes
from mupl.stacked.executors import EXECUTORS, Submission
from mupl.stacked.member import Job
from mupl.stacked.options import Options
from mupl.stacked.rules import NotStackable
from mupl.stacked.train import device_of, train_stack

# Bytes of one stack on a CPU (weights, gradients, state): more does not stay in the cache and is
# slower
CPU_BYTES = 45e6
GPU_SHARE = 0.85  # of the free memory: the estimate does not know of everything

Ended = Callable[[Sequence[Job]], None]  # is told of the jobs of each stack that has ended


def train_stacks(
    begun: Sequence[list[Job]],
    missing: Mapping[str, Job],
    states: Path,
    options: Options,
    ended: Ended,
) -> None:
    """Train jobs in stacks; those that cannot be stacked are left without results.

    Args:
        begun: the stacks that were begun earlier, as they were then. They come first.
        missing: the jobs that are to be trained, by id.
        states: folder of the stacks' checkpoints.
    """
    in_begun = {job.id for stack in begun for job in stack}
    rest = [job for job in missing.values() if job.id not in in_begun]
    new = _new_stacks(rest, options)
    if new and new[0][0].config.halving.rungs:
        remember_cohorts(states, [[job.id for job in stack] for stack in new])
    stacks = [*begun, *new]
    if options.executor is None:
        _train_here(stacks, states, options, ended)
    elif stacks:
        _train_elsewhere(stacks, states, options, ended)


def _new_stacks(jobs: Sequence[Job], options: Options) -> list[list[Job]]:
    """Put jobs that can be stacked into stacks, and say why others cannot."""
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
    stacks = []
    for group in groups.values():
        limit = _limit(group[0], options)
        parts = plan.split(group, limit, seed=lambda job: job.config.seed)
        if len(parts) > 1 and group[0].config.halving.rungs:
            print(_apart(group, parts), flush=True)
        stacks += parts
    return stacks


def _apart(jobs: Sequence[Job], stacks: Sequence[Sequence[Job]]) -> str:
    """Say that a halving compares parts of the jobs only."""
    return (
        f"warning: {len(jobs)} jobs that halving should compare are {len(stacks)} stacks, as one "
        f"may have {max(map(len, stacks))}; each is halved by itself, so that a setting may be "
        "dropped of one seed and not of another; halving.rungs=[] trains all to the end"
    )


def _limit(job: Job, options: Options) -> int:
    """How many members like `job` one stack may have."""
    if options.memory_gb is not None:
        budget = options.memory_gb * 1e9
    elif device_of(job.config).type == "cuda":
        budget = torch.cuda.mem_get_info()[0] * GPU_SHARE
    elif job.config.halving.rungs:
        budget = _free_memory() / 2  # jobs are compared within a stack: all together, if slower
    else:
        budget = CPU_BYTES
    limit = max(1, int(budget / nbytes(job.config, job.setup)))
    return limit if options.max_members is None else min(limit, options.max_members)


def _free_memory() -> float:
    """Return the bytes of memory that are free, or a guess where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):  # not on macOS
        return 4e9


def _announce(stacks: Sequence[list[Job]], index: int) -> str:
    title = f"stack {index + 1} of {len(stacks)}"
    jobs = stacks[index]
    print(f"{title}: {len(jobs)} jobs, {jobs[0].config.max_steps} steps", flush=True)
    return title


def _train_here(stacks: Sequence[list[Job]], states: Path, options: Options, ended: Ended) -> None:
    """Train the stacks one after the other; the jobs of one that fails have no results."""
    for i, jobs in enumerate(stacks):
        title = _announce(stacks, i)
        try:
            train_stack(jobs, states, options.save_every, title)
        except Exception as error:
            if disk_error(error):  # which would fail one by one as well
                raise
            reason = f"{type(error).__name__}: {error}"
            print(f"{title}: {reason}: its jobs run one by one", flush=True)
        ended(jobs)


def _train_elsewhere(
    stacks: Sequence[list[Job]], states: Path, options: Options, ended: Ended
) -> None:
    """Send the stacks to an executor and wait; the jobs of one that fails become failed rows.

    They are not run here, as this machine is not the one that was to train them.
    """
    assert options.executor is not None
    submit = EXECUTORS[options.executor](states.parent, options.resources)
    tasks: list[tuple[list[Job], str, Submission]] = []
    for i, jobs in enumerate(stacks):
        title = _announce(stacks, i)
        task = partial(train_stack, jobs, states, options.save_every, title)
        tasks.append((jobs, title, submit(task)))
    try:
        for jobs, title, submission in tasks:
            _wait(submission, jobs, title)
            ended(jobs)
    except BaseException:
        # else they would go on, and the same command would start them a second time
        for _, _, submission in tasks:
            submission.cancel()
        raise


def _wait(submission: Submission, jobs: Sequence[Job], title: str) -> None:
    try:
        submission.wait()
    except Exception as error:
        text = f"{title}: {type(error).__name__}: {error}"
        for job in jobs:
            if not job.is_done():
                job.write({"status": "failed", "error": text})
