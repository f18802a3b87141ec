"""Training stacks on several devices of this machine, in a process for each device."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import TextIOBase
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from types import FrameType
from typing import Any

from rich.progress import Progress

from mupl.errors import ConfigError
from mupl.signals import ENDING
from mupl.stacked.executors import Submission, Submit, Task
from mupl.stacked.progress import bars, show_elsewhere

VISIBLE = "CUDA_VISIBLE_DEVICES"
Environment = Mapping[str, str]
_SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork


class ProcessEnded(Exception):
    """The process of a device has ended while it trained, such as by `kill -9`."""


def environments(wanted: int | str, on_gpu: bool) -> list[Environment]:
    """Return what each process has in its environment, so that it uses its device and no other.

    Args:
        wanted: how many devices, or "all". Without GPUs there is one, the CPU, whose cores a number
            of processes may share.

    Raises:
        ConfigError: if the machine has fewer GPUs.
    """
    if not on_gpu:
        count = 1 if wanted == "all" else int(wanted)
        threads = max(1, (os.cpu_count() or 1) // count)
        return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}] * count
    names = _visible_gpus()
    count = len(names) if wanted == "all" else int(wanted)
    if count > len(names):
        raise ConfigError(
            f"hydra.launcher.devices={wanted}: must be at most {len(names)}, the GPUs of this "
            "machine, or all"
        )
    return [{VISIBLE: name} for name in names[:count]]


def _visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    count = torch.cuda.device_count()
    said = os.environ.get(VISIBLE)
    if said is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in said.split(",")][:count]


@contextmanager
def on_devices(environments: Sequence[Environment]) -> Iterator[Submit]:
    """Yield a function that sends a task to the first device that is free, in order.

    An exception ends what is trained as by SIGTERM, and the block when its states are saved.
    """
    # once this process closes its end, or is gone, the others end
    alive, life = _SPAWN.Pipe(duplex=False)
    free: SimpleQueue[_Device] = SimpleQueue()

    def run(task: Task) -> Any:
        device = free.get()
        try:
            return device.run(task)
        finally:
            free.put(device)

    def submit(task: Task) -> Submission:
        future = threads.submit(run, task)
        return Submission(future.done, future.result)

    with bars() as shown:
        for environment in environments:
            free.put(_Device(environment, alive, shown))
        threads = ThreadPoolExecutor(len(environments))
        try:
            yield submit
        finally:
            life.close()
            threads.shutdown(cancel_futures=True)
            for _ in environments:
                free.get().end()


class _Device:
    """A device, and the process that trains on it. It starts with the first task."""

    def __init__(self, environment: Environment, alive: Connection, shown: Progress) -> None:
        self._environment = dict(environment)
        self._alive = alive
        self._shown = shown
        self._process: Any = None
        self._connection: Any = None

    def run(self, task: Task) -> Any:
        """Return what a task returns in the device's process, or raise what it raises.

        Raises:
            ProcessEnded: if the process ends before the task.
        """
        if self._process is None:
            self._connection, theirs = _SPAWN.Pipe()
            arguments = (self._environment, theirs, self._alive)
            self._process = _SPAWN.Process(target=_work, args=arguments)
            self._process.start()
            theirs.close()
        try:
            self._connection.send(task)
            kind, content = self._receive()
        except (EOFError, ConnectionError):
            code = self.end()
            raise ProcessEnded(f"its process ended with exit code {code}") from None
        if kind == "error":
            self.end()  # a GPU may be of no use to a process in which something has failed
            raise content
        return content

    def _receive(self) -> tuple[str, Any]:
        """Show what a task prints and how far it is, and return how it ends."""
        bar = None
        try:
            while True:
                kind, content = self._connection.recv()
                if kind == "text":
                    sys.stdout.write(content)
                    sys.stdout.flush()
                elif kind == "progress":
                    title, done, total = content
                    bar = self._shown.add_task(title, total=total) if bar is None else bar
                    self._shown.update(bar, completed=done)
                else:
                    return kind, content
        finally:
            if bar is not None:
                self._shown.remove_task(bar)

    def end(self) -> int | None:
        """End the process, which has nothing to do or has ended, and return its exit code."""
        process = self._process
        self._process = None
        if process is None:
            return None
        self._connection.close()
        process.join()
        return int(process.exitcode)


def _work(environment: Environment, connection: Connection, alive: Connection) -> None:
    """Do the tasks that come, in the process of a device."""
    os.environ.update(environment)  # before torch is imported
    for number in ENDING:  # the process that started this one says when it is to end
        signal.signal(number, _ignore)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    sys.stdout = _Lines(lambda text: connection.send(("text", text)))
    show_elsewhere(lambda *how_far: connection.send(("progress", how_far)))
    while alive not in wait([connection, alive]):
        try:
            task = connection.recv()
        except EOFError:
            return
        message: tuple[str, Any]
        try:
            message = ("result", task())
        except Exception as error:
            message = ("error", _sendable(error))
        connection.send(message)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Handle a signal by nothing; unlike SIG_IGN, not for the programs that a compiler starts."""


def _end_with(alive: Connection) -> None:
    """End this process as by SIGTERM when the other end of a pipe is closed.

    What is trained notes the first signal, saves its state, and ignores the others.
    """
    wait([alive])
    while True:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def _sendable(error: Exception) -> Exception:
    """Return an error that another process can read, with the words of this one."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _Lines(TextIOBase):
    """A text stream that hands on whole lines."""

    def __init__(self, send: Callable[[str], object]) -> None:
        self._send = send
        self._begun = ""

    def write(self, text: str) -> int:
        lines = self._begun + text
        whole, newline, self._begun = lines.rpartition("\n")
        if newline:
            self._send(whole + newline)
        return len(text)
