"""What `hydra/launcher=stacked` does: compose, plan, train in stacks, run the rest one by one."""

import copy
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mupl.claims import holder
from mupl.errors import ConfigError, bad_input
from mupl.identity import RESULT_FILE, finished, job_row, without_hydra
from mupl.stacked import plan
from mupl.stacked.checkpoint import begun, delete_checkpoints
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
POLL = 1.0  # seconds between two looks at the jobs that other processes train


class Sweep:
    """The jobs of a multirun, as the launcher was given them.

    Args:
        master: config of the multirun.
        overrides: of each job.
        first: number of the first job.

    Attributes:
        states: folder of the checkpoints of stacks.
    """

    def __init__(
        self,
        options: Options,
        context: HydraContext,
        task_function: TaskFunction,
        master: DictConfig,
        overrides: Sequence[Sequence[str]],
        first: int,
    ) -> None:
        self._options = options
        self._context = context
        self._task_function = task_function
        self._master = master
        self._overrides = dict(enumerate(overrides, start=first))
        self.states = Path(str(master.hydra.sweep.dir)) / "states"
        self._returns: dict[int, JobReturn] = {}  # by the job's number, as jobs end
        self._anew: set[str] = set()  # ids of jobs that are to start anew
        self._jobs = [self._job(number) for number in self._overrides]
        if self._anew:
            delete_checkpoints(self.states, lambda ids: not self._anew.isdisjoint(ids))

    def run(self) -> list[JobReturn]:
        """Run the jobs, and return what Hydra's basic launcher would, in their order.

        Those that were done before are not run, and those that another process runs are waited
        for.
        """
        setup_globals()
        configure_log(self._master.hydra.hydra_logging, self._master.hydra.verbose)
        waits = False
        while missing := self._missing():
            free = {id: job for id, job in missing.items() if holder(job.folder) is None}
            if free:
                self._train(free)
            elif not waits:
                waits = True
                others = {str(holder(job.folder)) for job in missing.values()}
                print(f"waiting for {len(missing)} jobs of {', '.join(others)}", flush=True)
            else:
                time.sleep(POLL)
        self._finish(self._jobs)
        done = {job.id for job in self._jobs}
        delete_checkpoints(self.states, done.issuperset)  # of stacks that were halved
        configure_log(self._master.hydra.hydra_logging, self._master.hydra.verbose)
        return [self._returns[number] for number in self._overrides]

    def _compose(self, number: int) -> DictConfig:
        """The config of one job, with its number and its folder."""
        loader = self._context.config_loader
        config = loader.load_sweep_config(self._master, list(self._overrides[number]))
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.id = number
            config.hydra.job.num = number
            folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
            config.hydra.runtime.output_dir = str(folder.absolute())
        return config

    def _job(self, number: int) -> Job:
        """The job of that number; a result that it left earlier is looked for."""
        config = self._compose(number)
        with _as_hydras(config):
            row = job_row(config, config.hydra)
        folder = Path(config.hydra.runtime.output_dir)
        earlier = finished(folder, row["job"], config.rerun)
        if earlier is not None:
            returned = JobReturn(overrides=self._overrides[number], status=JobStatus.COMPLETED)
            returned.return_value = earlier.get(config.metric, float("nan"))
            self._returns[number] = returned
        elif holder(folder) is None:
            (folder / RESULT_FILE).unlink(missing_ok=True)
            if config.rerun == "all":
                self._anew.add(row["job"])
        return Job(number, row["job"], row, folder, partial(self._resolved, number))

    def _resolved(self, number: int) -> DictConfig:
        """The config of one job, resolved and without Hydra's part."""
        config = self._compose(number)
        with _as_hydras(config):
            resolved = without_hydra(config)
            OmegaConf.resolve(resolved)
        return resolved

    def _missing(self) -> dict[str, Job]:
        """The jobs that have not ended yet, by id."""
        missing = {}
        for job in self._jobs:
            if job.number not in self._returns and not job.is_done():
                missing[job.id] = job
        return missing

    def _train(self, missing: Mapping[str, Job]) -> None:
        """Train jobs in stacks, and then those that could not be stacked one by one."""
        stacks = self._stacks(missing)
        if self._options.executor is None:
            self._train_here(stacks)
        else:
            self._train_elsewhere(stacks)
        for job in missing.values():
            if not job.is_done() and holder(job.folder) is None:
                # a copy, as Hydra makes its part read-only
                config = copy.deepcopy(self._compose(job.number))
                folders = ("hydra.sweep.dir", "hydra.sweep.subdir")
                returned = run_job(self._task_function, config, *folders, self._context)
                self._returns[job.number] = returned
        self._finish(missing.values())

    def _finish(self, jobs: Iterable[Job]) -> None:
        """Do what Hydra does when a job ends, for those that have ended since."""
        for job in jobs:
            if job.number in self._returns:
                continue
            result = finished(job.folder, job.id)
            if result is not None:
                config = self._compose(job.number)
                returned = finish(job, config, result, self._context, self._task_function)
                self._returns[job.number] = returned

    def _stacks(self, missing: Mapping[str, Job]) -> list[list[Job]]:
        """Put the jobs that can be stacked into stacks; those that were begun earlier come first.

        A stack that was begun has the members that it had then.
        """
        known = {job.id: job for job in self._jobs}
        stacks = [[known[id] for id in ids if id in known] for ids in begun(self.states, missing)]
        in_begun = {job.id for stack in stacks for job in stack}
        groups: dict[str, list[Job]] = {}
        reasons: Counter[str] = Counter()
        for job in missing.values():
            if job.id in in_begun:
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
            limit = _limit(group[0], self._options)
            stacks += plan.split(group, limit, seed=lambda job: job.config.seed)
        return stacks

    def _train_here(self, stacks: Sequence[list[Job]]) -> None:
        """Train the stacks one after the other; the jobs of one that fails have no results."""
        for i, jobs in enumerate(stacks):
            title = _announce(stacks, i)
            try:
                train_stack(jobs, self.states, self._options.save_every, title)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                print(f"{title}: {reason}: its jobs run one by one", flush=True)
            self._finish(jobs)

    def _train_elsewhere(self, stacks: Sequence[list[Job]]) -> None:
        """Send the stacks to an executor and wait; the jobs of one that fails become failed rows.

        They are not run here, as this machine is not the one that was to train them.
        """
        if not stacks:
            return
        assert self._options.executor is not None
        submit = EXECUTORS[self._options.executor](self.states.parent, self._options.resources)
        tasks: list[tuple[list[Job], str, Submission]] = []
        for i, jobs in enumerate(stacks):
            title = _announce(stacks, i)
            task = partial(train_stack, jobs, self.states, self._options.save_every, title)
            tasks.append((jobs, title, submit(task)))
        try:
            for jobs, title, submission in tasks:
                _wait(submission, jobs, title)
                self._finish(jobs)
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


@contextmanager
def _as_hydras(config: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` mean Hydra's part of this config."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = cast(Any, config)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


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
