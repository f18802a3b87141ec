"""Sending stacks to other machines: one stack is one task with its own GPU."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

Task = Callable[[], object]


class Submission(NamedTuple):
    """A task that was started elsewhere."""

    wait: Task  # until it ends; raises what it raised
    cancel: Task  # as by SIGINT or SIGTERM


Submit = Callable[[Task], Submission]


def _submitit(
    cluster: str,
    folder: Path,
    resources: Mapping[str, Any],
) -> Submit:
    """Through submitit, whose logs go to folder/submitit.

    Args:
        resources: of `submitit.AutoExecutor.update_parameters`, such as timeout_min, gpus_per_node,
            slurm_partition.
    """
    import submitit

    executor = submitit.AutoExecutor(folder / "submitit", cluster=cluster)
    executor.update_parameters(**resources)

    def submit(task: Task) -> Submission:
        job = executor.submit(task)
        return Submission(job.result, job.cancel)

    return submit


def _ray(folder: Path, resources: Mapping[str, Any]) -> Submit:
    """Through Ray: the cluster that `ray.init` finds, or a local one.

    Args:
        resources: of `ray.remote`, such as num_gpus, num_cpus.
    """
    import ray

    ray.init(ignore_reinit_error=True)
    remote: Any = ray.remote(lambda task: task()).options(**resources)

    def submit(task: Task) -> Submission:
        reference = remote.remote(task)
        return Submission(partial(ray.get, reference), partial(ray.cancel, reference))

    return submit


EXECUTORS: dict[str, Callable[[Path, Mapping[str, Any]], Submit]] = {
    "submitit_local": partial(_submitit, "local"),
    "submitit_slurm": partial(_submitit, "slurm"),
    "ray": _ray,
}
