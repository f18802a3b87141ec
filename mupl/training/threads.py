"""How many CPU threads a training uses.

Threads of a small product wait for each other longer than they compute, and the more so where other
programs need the same cores: on two busy cores 300 updates of an MLP of width 256 on MNIST took 29
to 71 s with two threads and 3 s with one.
"""

import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mupl.roles import Info

# Floating point operations of an update that keep a thread busy. On two quiet cores a second thread
# makes updates of 2e8 and more 1.3 to 1.8 times as fast, and smaller ones 1.2 to 1.5 times; but
# these are what a busy core slows down most.
WORTH_A_THREAD = 1e8
RUNNING = Path("/proc/loadavg")
CHOSEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables that torch follows


def set_threads(wanted: int | str, flops: float, device: torch.device) -> None:
    """Set the number of torch's threads, and say in one line what was chosen.

    Nothing is changed by "auto" where the training is not on the CPU, or an environment variable
    says how many.

    Args:
        wanted: a number, or "auto" to choose one.
        flops: about the floating point operations of one update.
    """
    if isinstance(wanted, int):
        torch.set_num_threads(wanted)
        return
    if device.type != "cpu" or any(name in os.environ for name in CHOSEN_BY):
        return
    cores, load = _at_start()
    if cores == 1:
        return
    threads, reason = choose(flops, cores, load)
    torch.set_num_threads(threads)
    _say_once(f"{threads} of {cores} CPU threads, as {reason}; threads=N to choose")


def choose(flops: float, cores: int, load: float) -> tuple[int, str]:
    """Return how many threads to use, and why: one for each idle core, but few for small updates.

    Args:
        load: how many cores other programs use.
    """
    busy = max(1, round(flops / WORTH_A_THREAD))
    idle = max(1, cores - round(load))
    if busy < idle:
        return busy, "updates are small"
    return idle, f"the load of these cores is {load:.1f}"


def step_flops(infos: Mapping[str, Info], splits: Any, batch_size: int) -> float:
    """Estimate the floating point operations of one update: forward, and backward twice as many.

    A matrix, also one of several in a tensor, is applied once to each example or token, a
    convolution's kernel at most once to each pixel.
    """
    tokens = getattr(splits, "context", 1)  # of an example
    images = getattr(splits, "train_x", None)
    products = 0
    for info in infos.values():
        if len(info.copy_shape) == 2:
            products += tokens * math.prod(info.shape)
        elif len(info.copy_shape) > 2 and images is not None:
            pixels = images[0, 0].numel()
            products += pixels * math.prod(info.shape)
    return 6.0 * batch_size * products


@cache
def _at_start() -> tuple[int, float]:
    """Return torch's own number of threads, and how many of as many cores others use now.

    A container or a job of a cluster may have a part of the machine's cores, but the load is
    measured on all of them.
    """
    cores = torch.get_num_threads()
    return cores, _load() * cores / max(cores, os.cpu_count() or 1)


def _load() -> float:
    """Return how many other threads run or wait for a core.

    Linux says it of this moment; elsewhere it is the mean of the last minute, own work included.
    """
    if RUNNING.exists():
        running, _, _ = RUNNING.read_text().split()[3].partition("/")
        return int(running) - 1.0
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


@cache
def _say_once(text: str) -> None:
    """Print a line once in a process, as the jobs of a sweep all choose the same."""
    print(text, flush=True)
