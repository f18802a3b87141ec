"""What `hydra/launcher=stacked` does with jobs: compose, plan, train in stacks, and the rest one by one."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from mupl.errors import ConfigError, bad_input
from mupl.identity import RESULT_FILE, finished, job_row, without_hydra
from mupl.stacked import plan
from mupl.stacked.checkpoint import delete_state, saved
from mupl.stacked.compose import to_yaml
from mupl.stacked.executors import EXECUTORS, Submission
from mupl.stacked.member import Job
from mupl.stacked.options import Options
from mupl.stacked.rules import NotStackable
from mupl.stacked.train import device_of, train_stack

# Bytes of one stack on a CPU (weights, gradients, state): more does not stay in the cache and is slower
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
    """Run the jobs; returns what Hydra's basic launcher would, in their order."""
    setup_globals()
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    before = HydraConfig.instance().cfg
    configs = [
        _compose(context, master, overrides, first + i) for i, overrides in enumerate(job_overrides)
    ]
    jobs = [_job(config) for config in configs]
    states = Path(str(master.hydra.sweep.dir)) / "states"
    missing = {
        job.id: job for job in jobs if finished(job.folder, job.id, job.config.rerun) is None
    }
    for job in missing.values():
        (job.folder / RESULT_FILE).unlink(missing_ok=True)  # of a job that is to run again
    anew = {job.id for job in jobs if job.config.rerun == "all"}
    for file, ids in saved(states):
        if anew & set(ids):
            delete_state(file)
    with (
        ThreadPoolExecutor() as pool
    ):  # beside the training, as all that they cost is waiting for the disk
        written = pool.map(_write_config, configs)
        _train(_stacks(missing, {job.id: job for job in jobs}, states, options), states, options)
    list(written)  # raises what a write raised
    results = {job.id: finished(job.folder, job.id) for job in jobs}
    for file, ids in saved(states):  # of stacks that were halved
        if all(results.get(i) for i in ids):
            delete_state(file)
    returns = []
    for config, job in zip(configs, jobs, strict=True):
        result = results[job.id]
        if result is None:
            returns.append(
                run_job(task_function, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
            )
        else:
            returns.append(_conclude(context, task_function, config, job, result))
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    HydraConfig.instance().cfg = before
    return returns


def _compose(
    context: HydraContext, master: DictConfig, overrides: Sequence[str], number: int
) -> DictConfig:
    """The config of one job, as Hydra's `run_job` completes it."""
    config = context.config_loader.load_sweep_config(master, list(overrides))
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.id = config.hydra.job.num = number
        folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
        config.hydra.runtime.output_dir = str(folder.absolute())
    return config


def _job(config: DictConfig) -> Job:
    HydraConfig.instance().cfg = cast(Any, config)  # for what is interpolated from it
    row = job_row(config, config.hydra)
    resolved = without_hydra(config)
    OmegaConf.resolve(resolved)
    return Job(row["job"], resolved, row, Path(config.hydra.runtime.output_dir))


def _write_config(config: DictConfig) -> None:
    """The files of a job that Hydra's `run_job` writes before it runs it."""
    if config.hydra.output_subdir is not None:
        folder = Path(config.hydra.runtime.output_dir, config.hydra.output_subdir)
        folder.mkdir(parents=True, exist_ok=True)
        values: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
        hydra = {"hydra": values.pop("hydra")}
        for name, part in (
            ("config", values),
            ("hydra", hydra),
            ("overrides", hydra["hydra"]["overrides"]["task"]),
        ):
            (folder / f"{name}.yaml").write_text(to_yaml(part))


def _conclude(
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    job: Job,
    result: dict[str, Any],
) -> JobReturn:
    """Leave what else Hydra's `run_job` leaves, of a job that is trained."""
    configure_log(config.hydra.job_logging, config.hydra.verbose)  # makes its log file
    context.callbacks.on_job_start(config=config, task_function=task_function)
    overrides, name = list(config.hydra.overrides.task), config.hydra.job.name
    returned = JobReturn(overrides, job.config, config, str(Path.cwd()), name)
    returned.return_value = result.get(job.config.metric, float("nan"))
    returned.status = JobStatus.COMPLETED
    context.callbacks.on_job_end(config=config, job_return=returned)
    return returned


def _stacks(
    missing: dict[str, Job], known: dict[str, Job], states: Path, options: Options
) -> list[list[Job]]:
    """The jobs that can be stacked, in stacks: first those that were begun earlier, with the members they had."""
    stacks = []
    begun: set[str] = set()
    for _, ids in saved(states):
        if any(i in missing and i not in begun for i in ids):
            # members that are done go along, so that the others train as before
            stacks.append([known[i] for i in ids if i in known])
            begun.update(ids)
    groups: dict[str, list[Job]] = {}
    reasons: Counter[str] = Counter()
    for job in missing.values():
        if job.id not in begun:
            try:
                job.setup  # noqa: B018  (describes it: this finds bad input)
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
    return max(1, min(int(budget / job.nbytes()), options.max_members or 10**9))


def _train(stacks: Sequence[list[Job]], states: Path, options: Options) -> None:
    """Train the stacks; the jobs of one that fails here are left without results, elsewhere they are failed rows."""
    elsewhere: list[tuple[list[Job], str, Submission]] = []
    submit = (
        EXECUTORS[options.through](states.parent, options.resources) if options.through else None
    )
    for i, stack in enumerate(stacks):
        title = f"stack {i + 1} of {len(stacks)}"
        print(f"{title}: {len(stack)} jobs, {stack[0].config.max_steps} steps", flush=True)
        task = partial(train_stack, stack, states, options.save_every, title)
        if submit is None:
            try:
                task()
            except Exception as error:
                print(
                    f"{title}: {type(error).__name__}: {error}: its jobs run one by one", flush=True
                )
        else:
            elsewhere.append((stack, title, submit(task)))
    for stack, title, sent in elsewhere:
        try:
            sent.wait()
        except (
            KeyboardInterrupt
        ):  # else they would go on, and the same command would start them a second time
            for *_, other in elsewhere:
                other.cancel()
            raise
        except Exception as error:  # this machine is not the one that was to train them
            text = f"{title}: {type(error).__name__}: {error}"
            for job in stack:
                if finished(job.folder, job.id) is None:
                    job.write({"status": "failed", "error": text})
