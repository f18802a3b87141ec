"""What `hydra/launcher=stacked` does: compose, plan, train in stacks, run the rest one by one."""

import copy
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mupl.claims import POLL, holder, waiting_for
from mupl.identity import (
    RESULT_FILE,
    STATES,
    finished,
    finished_jobs,
    hydra_of,
    job_row,
    remember_id,
    without_hydra,
)
from mupl.stacked.cohorts import delete_losses
from mupl.stacked.compose import SweepConfigLoader
from mupl.stacked.finish import finish, is_finished
from mupl.stacked.member import Job
from mupl.stacked.options import Options
from mupl.tuning.halving import Halving


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
        # What torch made on its import stays. To look through it again and again, and at the end,
        # takes a second of a sweep of 63 short jobs.
        gc.freeze()
        self._options = options
        self._context = context
        self._task_function = task_function
        self._master = master
        self._overrides = dict(enumerate(overrides, start=first))
        self.states = Path(str(master.hydra.sweep.dir)) / STATES
        self._returns: dict[int, JobReturn] = {}  # by the job's number, as jobs end
        self._jobs = [self._job(number) for number in self._overrides]
        self._find_done()

    def run(self) -> list[JobReturn]:
        """Run the jobs, and return what Hydra's basic launcher would, in their order.

        Those that were done before are not run, and those that another process runs are waited
        for.
        """
        setup_globals()
        configure_log(self._master.hydra.hydra_logging, self._master.hydra.verbose)
        waits = False
        while missing := self._missing():
            holders = {id: holder(job.folder) for id, job in missing.items()}
            free = {id: job for id, job in missing.items() if holders[id] is None}
            if free:
                self._train(free)
            elif not waits:
                waits = True
                print(waiting_for([other for other in holders.values() if other]), flush=True)
            else:
                time.sleep(POLL)
        self._finish(self._jobs)
        done = {job.id for job in self._jobs}
        self._delete_checkpoints(done.issuperset)  # of stacks that were halved
        configure_log(self._master.hydra.hydra_logging, self._master.hydra.verbose)
        return [self._returns[number] for number in self._overrides]

    def _compose(self, number: int) -> DictConfig:
        """The config of one job, with its number."""
        loader = cast(SweepConfigLoader, self._context.config_loader)
        config = loader.compose(self._master, self._overrides[number])
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.job.id = number
            config.hydra.job.num = number
        return config

    def _job(self, number: int) -> Job:
        config = self._compose(number)
        row = job_row(config, config.hydra, rooms=["stacked"])
        remember_id(config, row["job"])
        folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).absolute()
        return Job(number, row["job"], row, folder, self._resolved)

    def _config(self, job: Job) -> DictConfig:
        """The config of a job, with its number and folder."""
        config = self._compose(job.number)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.runtime.output_dir = str(job.folder)
        return config

    def _find_done(self) -> None:
        """Look for jobs that were done before; delete what the others left, if they start anew."""
        rerun = self._master.rerun
        metric = self._master.metric
        halving = Halving.of(self._master)
        rows = finished_jobs(
            ((job.folder, job.id, rerun) for job in self._jobs),
            halving.plain() if halving.rungs else None,
        )
        anew = set()
        for job, row in zip(self._jobs, rows, strict=True):
            # one whose process was killed between its result and the rest is finished in `run`
            if row is not None and is_finished(job, self._master):
                overrides = self._overrides[job.number]
                returned = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
                returned.return_value = row.get(metric, float("nan"))
                self._returns[job.number] = returned
            elif row is None and holder(job.folder) is None and (rerun == "all" or job.is_done()):
                (job.folder / RESULT_FILE).unlink(missing_ok=True)
                delete_losses(job.folder)
                anew.add(job.id)
        if anew:  # else there is no need to read the checkpoints twice
            self._delete_checkpoints(lambda ids: not anew.isdisjoint(ids))

    def _resolved(self, job: Job) -> DictConfig:
        """The config of one job, resolved and without Hydra's part."""
        config = self._config(job)
        with hydra_of(config):
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
        """Train jobs in stacks, and then those that could not be stacked one by one.

        Jobs that wait at a rung for jobs of a process that is gone are left: these come next.
        """
        # imports torch, for which a sweep that is done need not wait
        from mupl.stacked.checkpoint import begun
        from mupl.stacked.stacks import train_stacks

        known = {job.id: job for job in self._jobs}
        stacks = begun(self.states, missing, self._master.rerun)
        wait = train_stacks(stacks, missing, known, self.states, self._options, ended=self._finish)
        for job in missing.values():
            if not job.is_done() and job.id not in wait and holder(job.folder) is None:
                # a copy, as Hydra makes its part read-only
                config = copy.deepcopy(self._config(job))
                folders = ("hydra.sweep.dir", "hydra.sweep.subdir")
                returned = run_job(self._task_function, config, *folders, self._context)
                self._returns[job.number] = returned
        self._finish(missing.values())

    def _delete_checkpoints(self, useless: Callable[[list[str]], bool]) -> None:
        if any(self.states.glob("*.pt")):
            from mupl.stacked.checkpoint import delete_checkpoints

            delete_checkpoints(self.states, useless)

    def _finish(self, jobs: Iterable[Job]) -> None:
        """Do what Hydra does when a job ends, for those that have ended since."""
        for job in jobs:
            if job.number in self._returns:
                continue
            result = finished(job.folder, job.id)
            if result is not None:
                config = self._config(job)
                returned = finish(job, config, result, self._context, self._task_function)
                self._returns[job.number] = returned
