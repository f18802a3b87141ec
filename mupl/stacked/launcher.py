"""What `hydra/launcher=stacked` does: compose, plan, train in stacks, run the rest one by one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mupl.errors import ConfigError, bad_input
from mupl.identity import RESULT_FILE, finished, finished_jobs, job_row, without_hydra
from mupl.stacked import plan
from mupl.stacked.checkpoint import checkpoints
from mupl.stacked.executors import EXECUTORS, Submission
from mupl.stacked.finish import finish
from mupl.stacked.member import Job
from mupl.stacked.options import Options
from mupl.stacked.rules import NotStackable
from mupl.stacked.train import device_of, train_stack

# Bytes of one stack on a CPU (weights, gradients, state): more does not stay in the cache and is
# slower
CPU_BYTES = 45e6
GPU_SHARE = 0.85  # of the free memory: the estimate does not know of everything


def launch(
    options: Options,
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Run the jobs, and return what Hydra's basic launcher would, in their order.

    Args:
        first: number of the first job.
    """
    setup_globals()
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    configs = []
    for number, overrides in enumerate(job_overrides, start=first):
        configs.append(_compose(context, master, overrides, number))
    jobs = [_job(config) for config in configs]
    states = Path(str(master.hydra.sweep.dir)) / "states"
    missing = _missing(jobs)
    anew = {job.id for job in jobs if job.config.rerun in ("all", "changed")}
    _delete_checkpoints(states, anew)
    stacks = _stacks(missing, {job.id: job for job in jobs}, states, options)
    if options.executor is None:
        _train_here(stacks, states, options)
    else:
        _train_elsewhere(stacks, states, options)
    results = {job.id: finished(job.folder, job.id) for job in jobs}
    for file, ids in checkpoints(states):
        if all(results.get(job) for job in ids):
            file.unlink()  # of a stack that was halved
    returns = []
    for config, job in zip(configs, jobs, strict=True):
        result = results[job.id]
        if result is None:
            folders = ("hydra.sweep.dir", "hydra.sweep.subdir")
            returned = run_job(task_function, config, *folders, context)
        else:
            returned = finish(job, config, result, context, task_function)
        returns.append(returned)
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    return returns


def _compose(
    context: HydraContext,
    master: DictConfig,
    overrides: Sequence[str],
    number: int,
) -> DictConfig:
    """The config of one job, with its number and its folder."""
    config = context.config_loader.load_sweep_config(master, list(overrides))
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.id = number
        config.hydra.job.num = number
        folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
        config.hydra.runtime.output_dir = str(folder.absolute())
    return config


def _job(config: DictConfig) -> Job:
    """The job of a config, which may be interpolated from Hydra's part of it."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = cast(Any, config)
    try:
        row = job_row(config, config.hydra, rooms=["stacked"])
        resolved = without_hydra(config)
        OmegaConf.resolve(resolved)
        return Job(row["job"], resolved, row, Path(config.hydra.runtime.output_dir))
    finally:
        HydraConfig.instance().cfg = before


def _missing(jobs: Sequence[Job]) -> dict[str, Job]:
    """The jobs that are to be trained, by id; a result that one of them left earlier is deleted."""
    missing = {}
    earlier = finished_jobs([(job.folder, job.id, job.config.rerun) for job in jobs])
    for job, row in zip(jobs, earlier, strict=True):
        if row is None:
            missing[job.id] = job
    for job in missing.values():
        (job.folder / RESULT_FILE).unlink(missing_ok=True)
    return missing


def _delete_checkpoints(states: Path, jobs: set[str]) -> None:
    """Delete the checkpoints of stacks that any of these jobs was a member of."""
    for file, ids in checkpoints(states):
        if jobs & set(ids):
            file.unlink()


def _stacks(
    missing: Mapping[str, Job],
    known: Mapping[str, Job],
    states: Path,
    options: Options,
) -> list[list[Job]]:
    """Put the jobs that can be stacked into stacks; those that were begun earlier come first.

    A stack that was begun has the members that it had then.
    """
    stacks = []
    begun: set[str] = set()
    for _, ids in checkpoints(states):
        if any(job in missing and job not in begun for job in ids):
            # members that are done go along, so that the others train as before
            stacks.append([known[job] for job in ids if job in known])
            begun.update(ids)
    groups: dict[str, list[Job]] = {}
    reasons: Counter[str] = Counter()
    for job in missing.values():
        if job.id in begun:
            continue
        try:
            job.setup  # noqa: B018  (describes it, which finds bad input)
            groups.setdefault(plan.shape_key(job.config), []).append(job)
        except Exception as error:  # it runs alone, which reports any error in its row
            if isinstance(error, NotStackable) or not isinstance(bad_input(error), ConfigError):
                reasons[str(error)] += 1
    for reason, count in reasons.items():
        print(f"{count} of {len(missing)} jobs run one by one: {reason}", flush=True)
    for group in groups.values():
        stacks += plan.split(group, _limit(group[0], options), seed=lambda job: job.config.seed)
    return stacks


def _limit(job: Job, options: Options) -> int:
    """How many members like `job` one stack may have."""
    if options.memory_gb is not None:
        budget = options.memory_gb * 1e9
    elif device_of(job.config).type == "cuda":
        budget = torch.cuda.mem_get_info()[0] * GPU_SHARE
    else:
        budget = CPU_BYTES
    limit = max(1, int(budget / job.nbytes()))
    return limit if options.max_members is None else min(limit, options.max_members)


def _announce(stacks: Sequence[list[Job]], index: int) -> str:
    title = f"stack {index + 1} of {len(stacks)}"
    jobs = stacks[index]
    print(f"{title}: {len(jobs)} jobs, {jobs[0].config.max_steps} steps", flush=True)
    return title


def _train_here(
    stacks: Sequence[list[Job]],
    states: Path,
    options: Options,
) -> None:
    """Train the stacks one after the other; the jobs of one that fails are left without results."""
    for i, jobs in enumerate(stacks):
        title = _announce(stacks, i)
        try:
            train_stack(jobs, states, options.save_every, title)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            print(f"{title}: {reason}: its jobs run one by one", flush=True)


def _train_elsewhere(
    stacks: Sequence[list[Job]],
    states: Path,
    options: Options,
) -> None:
    """Send the stacks to an executor and wait; the jobs of one that fails become failed rows.

    They are not run here, as this machine is not the one that was to train them.
    """
    if not stacks:
        return
    assert options.executor is not None
    submit = EXECUTORS[options.executor](states.parent, options.resources)
    tasks: list[tuple[list[Job], str, Submission]] = []
    for i, jobs in enumerate(stacks):
        title = _announce(stacks, i)
        task = partial(train_stack, jobs, states, options.save_every, title)
        tasks.append((jobs, title, submit(task)))
    for jobs, title, submission in tasks:
        try:
            submission.wait()
        except KeyboardInterrupt:
            # else they would go on, and the same command would start them a second time
            for _, _, other in tasks:
                other.cancel()
            raise
        except Exception as error:
            text = f"{title}: {type(error).__name__}: {error}"
            for job in jobs:
                if finished(job.folder, job.id) is None:
                    job.write({"status": "failed", "error": text})
