"""Leave of a trained job what Hydra leaves, in a tenth of the time.

Hydra's `run_job` copies the whole config four times and writes it with a slow dumper: 30 ms a job,
two thirds of what a sweep of many short jobs takes (benchmarks/sweep.py, "many jobs").
"""

from pathlib import Path
from typing import Any

import yaml
from hydra.core.utils import JobReturn, JobStatus, configure_log
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mupl.files import delete_stale_partials, write_atomically
from mupl.hydra_internals import represent_text
from mupl.stacked.member import Job

LAST_FILE = "overrides.yaml"  # of a job's config, in the order in which they are written


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Dumps as OmegaConf does, with libyaml where it is installed."""


_Dumper.add_representer(str, represent_text)


def finish(
    job: Job,
    config: DictConfig,
    result: dict[str, Any],
    context: HydraContext,
    task_function: TaskFunction,
) -> JobReturn:
    """Write a job's config and log file, tell Hydra's callbacks, and return its objective.

    Args:
        config: of the job, with Hydra's part.
        result: the row that the job left.
    """
    if config.hydra.output_subdir is not None:
        _write_config(config)
    configure_log(config.hydra.job_logging, config.hydra.verbose)  # makes the log file
    context.callbacks.on_job_start(config=config, task_function=task_function)
    returned = JobReturn(
        overrides=list(config.hydra.overrides.task),
        cfg=job.config,
        hydra_cfg=config,
        working_dir=str(Path.cwd()),
        task_name=config.hydra.job.name,
        status=JobStatus.COMPLETED,
    )
    returned.return_value = result.get(config.metric, float("nan"))
    context.callbacks.on_job_end(config=config, job_return=returned)
    # sweepers use the objective only, and thousands of configs take a gigabyte
    returned.cfg = returned.hydra_cfg = None
    return returned


def is_finished(job: Job, master: DictConfig) -> bool:
    """Whether `finish` came to an end for a trained job; its process may have been killed."""
    subdir = master.hydra.output_subdir
    return subdir is None or (job.folder / subdir / LAST_FILE).exists()


def _write_config(config: DictConfig) -> None:
    folder = Path(config.hydra.runtime.output_dir, config.hydra.output_subdir)
    folder.mkdir(parents=True, exist_ok=True)
    delete_stale_partials(folder)
    values: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    hydra = values.pop("hydra")
    _write_yaml(folder / "config.yaml", values)
    _write_yaml(folder / "hydra.yaml", {"hydra": hydra})
    _write_yaml(folder / LAST_FILE, hydra["overrides"]["task"])


def _write_yaml(file: Path, values: Any) -> None:
    options = {"default_flow_style": False, "allow_unicode": True, "sort_keys": False}
    write_atomically(file, yaml.dump(values, Dumper=_Dumper, **options))
