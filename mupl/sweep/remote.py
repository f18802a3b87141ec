"""Sending stacks to other machines: one stack is one task with its own GPU."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

Task = Callable[[], object]
Submit = Callable[[Task], Task]  # starts a task and returns a function that waits for it and raises what it raised


def _submitit(cluster: str, folder: Path, resources: Mapping[str, Any]) -> Submit:
    """Through submitit, whose logs go to folder/submitit.

    Args:
        resources: of `submitit.AutoExecutor.update_parameters`, such as timeout_min, gpus_per_node, slurm_partition.
    """
    import submitit

    executor = submitit.AutoExecutor(folder / "submitit", cluster=cluster)
    executor.update_parameters(**resources)
    return lambda task: executor.submit(task).result


def _ray(folder: Path, resources: Mapping[str, Any]) -> Submit:
    """Through Ray: the cluster that `ray.init` finds, or a local one.

    Args:
        resources: of `ray.remote`, such as num_gpus, num_cpus.
    """
    import ray

    ray.init(ignore_reinit_error=True)
    remote: Any = ray.remote(lambda task: task()).options(**resources)
    return lambda task: partial(ray.get, remote.remote(task))


EXECUTORS: dict[str, Callable[[Path, Mapping[str, Any]], Submit]] = {
    "submitit_local": partial(_submitit, "local"),
    "submitit_slurm": partial(_submitit, "slurm"),
    "ray": _ray,
}
