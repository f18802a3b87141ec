"""Side-by-side measurement: contestants take turns, and ratios are of times next to each other.

A shared machine changes its speed from one second to the next, so a time alone says little and a
paired ratio much. Memory once freed is kept by a process in which contestants take turns: else who
pays for the page faults of large temporaries is a matter of luck.
"""

import math
import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mupl.stacked.memory import ARENA_MAX, keep_freed_memory, mallopt

BLOCK = 0.005  # seconds

Step = Callable[[], object]
Times = dict[
    str, list[float]
]  # contestant -> seconds a step, one entry a round; entry r of all is of one moment


def alternate(
    makers: Mapping[str, Callable[[], Step]], seconds: float, builds: int = 4, queue: int = 1
) -> Times:
    """Build a step of each and time blocks of them in turn, for about `seconds`.

    The order is drawn anew each round.

    All are built anew `builds` times: where its tensors come to lie makes one and the same step
    faster or slower by 2 %. A block is as many calls as fit into `BLOCK` seconds, the same for all,
    and a multiple of `queue`: of as many as fill a GPU's queue, for whose end is waited.
    """
    keep_freed_memory()
    times: Times = {name: [] for name in makers}
    for _ in range(builds):
        steps = {name: makers[name]() for name in random.sample(list(makers), len(makers))}
        for _ in range(3):
            slowest = max(_timed(step, queue) for step in steps.values())
        inner = queue * max(1, round(BLOCK / slowest))
        end = time.perf_counter() + seconds / builds
        while time.perf_counter() < end:
            for name in random.sample(list(steps), len(steps)):
                times[name].append(_timed(steps[name], inner) / inner)
    return times


def _timed(step: Step, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        step()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def take_turns(runs: Mapping[str, Callable[[Callable[[], None]], None]], window: int) -> Times:
    """Time whole training loops that alternate step by step.

    Each has a thread, of which only one is ever awake.

    A run is called with a function that it has to call at the end of each step. A round is `window`
    steps of each, so that what happens every few steps is counted too; the first round is left out.
    """
    keep_freed_memory()
    mallopt(ARENA_MAX, 1)  # one heap for all threads
    names = list(runs)
    turns = [threading.Semaphore(0) for _ in names]
    laps: Times = {name: [] for name in names}
    running = set(range(len(names)))

    def compete(index: int) -> None:
        mine, following, lap = turns[index], turns[(index + 1) % len(names)], laps[names[index]]
        mine.acquire()
        started = time.perf_counter()

        def end_step() -> None:
            nonlocal started
            lap.append(time.perf_counter() - started)
            following.release()
            mine.acquire()
            started = time.perf_counter()

        try:
            runs[names[index]](end_step)
        finally:
            running.discard(index)
            following.release()
            while running:  # the others go on, if this one had fewer steps or failed
                mine.acquire()
                following.release()

    threads = [
        threading.Thread(target=compete, args=(i,), name=name) for i, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    turns[0].release()
    for thread in threads:
        thread.join()
    rounds = range(1, min(map(len, laps.values())) // window)
    return {
        name: [sum(lap[r * window : (r + 1) * window]) / window for r in rounds]
        for name, lap in laps.items()
    }


def ratios(times: Times, name: str, baseline: str) -> list[float]:
    """Time of `name` over the time of `baseline`, round by round."""
    return [a / b for a, b in zip(times[name], times[baseline], strict=True)]


def median_interval(values: list[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median, from the ranks n/2 +- 0.98 sqrt(n)."""
    ordered, half = sorted(values), 0.98 * math.sqrt(len(values))
    low, high = math.floor(len(values) / 2 - half), math.ceil(len(values) / 2 + half)
    return ordered[max(low, 0)], ordered[min(high, len(values) - 1)]


def new_table(title: str, device: str = "cpu") -> Table:
    """A table for `add_rows`."""
    gpu = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    machine = f"{gpu}torch {torch.__version__}, {torch.get_num_threads()} threads"
    table = Table(
        title=f"{title}\n{machine}; ratios are to the row without one",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("what")
    for column in ("rounds", "time", "quartiles", "ratio", "95 % of median", "quartiles", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def add_rows(
    table: Table,
    label: str,
    times: Times,
    baseline: str,
    targets: Mapping[str, float] | None = None,
    unit: str = "ms",
) -> None:
    """Add one row for each contestant: its median time a step, and the median of paired ratios.

    Ratios are to the baseline, in the same round.
    """
    factor = {"s": 1, "ms": 1e3, "us": 1e6}[unit]
    for name, values in times.items():
        low, middle, high = (factor * q for q in statistics.quantiles(values, n=4))
        row = [
            f"{label}: {name}",
            str(len(values)),
            f"{middle:.4g} {unit}",
            f"{low:.4g} to {high:.4g}",
        ]
        if name != baseline:
            paired = ratios(times, name, baseline)
            low, middle, high = statistics.quantiles(paired, n=4)
            bounds = "{:.3f} to {:.3f}".format(*median_interval(paired))
            row += [f"{middle:.3f}", bounds, f"{low:.3f} to {high:.3f}"]
            row += [f"<= {targets[name]}"] if targets and name in targets else []
        table.add_row(*row)
    table.add_section()


def print_speed_up(times: Times, width: int, members: int, target: float) -> None:
    """Print how many times more models x steps a second "stack" makes than the others.

    The stack trains all members, the others one.
    """
    faster = {
        name: members * statistics.median(ratios(times, name, "stack"))
        for name in times
        if name != "stack"
    }
    over = ", ".join(f"{value:.2f} over {name}" for name, value in faster.items())
    print(
        f"width {width}: models x steps a second of the stack: {over} (target over plain {target})",
        flush=True,
    )


def show(table: Table) -> None:
    """Print the table, whatever the width of the terminal."""
    Console(width=140).print(table)
