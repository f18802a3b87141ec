"""Where stacks are trained: here, or on other machines, where one stack is one task.

An executor is a context that yields a function, which starts a task. An exception, such as an
interrupt, cancels what has not ended: else it would go on, and the same command would start it a
second time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

Task = Callable[[], Any]


class Submission(NamedTuple):
    """A task that was started."""

    has_ended: Callable[[], bool]
    result: Task  # what it returns, or raises what it raises


Submit = Callable[[Task], Submission]
Executor = Callable[[Path, Mapping[str, Any]], AbstractContextManager[Submit]]


@contextmanager
def here() -> Iterator[Submit]:
    """Run each task at once, in this process."""

    def submit(task: Task) -> Submission:
        try:
            result = task()
        except Exception as error:
            return Submission(lambda: True, partial(_throw, error))
        return Submission(lambda: True, lambda: result)

    yield submit


def _throw(error: Exception) -> None:
    raise error


@contextmanager
def _submitit(
    cluster: str,
    folder: Path,
    resources: Mapping[str, Any],
) -> Iterator[Submit]:
    """Through submitit, whose logs go to folder/submitit.

    Args:
        resources: of `submitit.AutoExecutor.update_parameters`, such as timeout_min, gpus_per_node,
            slurm_partition.
    """
    import submitit

    executor = submitit.AutoExecutor(folder / "submitit", cluster=cluster)
    executor.update_parameters(**resources)
    jobs: list[Any] = []

    def submit(task: Task) -> Submission:
        job = executor.submit(task)
        jobs.append(job)
        return Submission(job.done, job.result)

    try:
        yield submit
    except BaseException:
        for job in jobs:
            job.cancel()
        raise


@contextmanager
def _ray(folder: Path, resources: Mapping[str, Any]) -> Iterator[Submit]:
    """Through Ray: the cluster that `ray.init` finds, or a local one.

    Args:
        resources: of `ray.remote`, such as num_gpus, num_cpus.
    """
    import ray

    ray.init(ignore_reinit_error=True)
    remote: Any = ray.remote(lambda task: task()).options(**resources)
    references: list[Any] = []

    def submit(task: Task) -> Submission:
        reference = remote.remote(task)
        references.append(reference)
        has_ended = lambda: bool(ray.wait([reference], timeout=0)[0])  # noqa: E731
        return Submission(has_ended, partial(ray.get, reference))

    try:
        yield submit
    except BaseException:
        for reference in references:
            ray.cancel(reference)
        raise


EXECUTORS: dict[str, Executor] = {
    "submitit_local": partial(_submitit, "local"),
    "submitit_slurm": partial(_submitit, "slurm"),
    "ray": _ray,
}
