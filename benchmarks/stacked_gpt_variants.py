"""Ways of making a step of a stack of GPTs faster, each beside the step as it is.

    python benchmarks/stacked_gpt_variants.py FOLDER [--widths 64 128 256] [--gpus 1] [NAME ...]
    python benchmarks/stacked_gpt_variants.py FOLDER --tiny     # on a CPU, to see that it runs

A NAME is one of `gpt_candidates.CANDIDATES`, or several joined, such as "merged+whole"; without
any, all are measured. Each is built in a process of its own, so that a crash or a timeout is a row
of the table. There it takes turns with the step as it is: "ratio" is the median of the times of
neighbouring rounds, with its 95 % interval; below 1 is faster. "first" and "deviation" are the
largest relative deviation of a member's loss from the step as it is, at the first step and
over the first 20; the candidates "same" and "eager" show what rounding alone does.

Rows go to FOLDER/results.csv as they end, the kernels of a step to FOLDER/kernels_WIDTH_NAME.txt,
and what a failed process has printed to FOLDER/failed_WIDTH_NAME.txt.
"""

import argparse
import csv
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

STEPS, VOCABULARY = 1_000, 256
COLUMNS = ("width", "candidate", "ms", "before_ms", "ratio", "low", "high")
COLUMNS += ("first", "deviation", "gigabytes", "built_s", "before_built_s", "device", "note")
MARK = "RESULT "


class Size(NamedTuple):
    """What is trained."""

    device: str = "cuda"
    members: int = 36
    context: int = 256
    batch: int = 32
    depth: int = 4
    autocast: torch.dtype | None = torch.bfloat16
    compared: int = 20  # first steps, whose losses are compared


TINY = Size("cpu", members=3, context=32, batch=2, depth=2, autocast=None, compared=5)


# In the process of one candidate


def text() -> Tensor:
    """Counting up by one to three: something to learn."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(1, 4, (1_000_000,), generator=generator)
    return (steps.cumsum(0) % VOCABULARY).to(torch.uint8)


def new_stack(width: int, size: Size) -> Any:
    """A stack with half its members in muP; on a CPU too its blocks are to be compiled."""
    from stacked_gpt import members

    from mupl.data.text import Tokens
    from mupl.models import GPT
    from mupl.stacked.stack import Stack

    def build(width: int) -> GPT:
        return GPT(VOCABULARY, size.context, width, depth=size.depth)

    setups = members(build, width, [3e-4 * (1 + i % 6) for i in range(size.members)])
    tokens = Tokens(text(), text()[:10_000], VOCABULARY, size.context)
    stack = Stack(
        setups,
        tokens,
        batch_size=size.batch,
        max_steps=STEPS,
        device=size.device,
        autocast=size.autocast,
    )
    if size.device == "cpu":
        stack._compile()
    return stack


def first_losses(stack: Any, steps: int) -> Tensor:
    """(steps, S): the losses of the first steps; the step is compiled and captured by them."""
    stack.train(steps)
    return stack.losses[:steps].double().cpu()


def step_of(stack: Any) -> Callable[[], object]:
    def step() -> None:
        if stack.k == stack.max_steps:  # there are numbers for so many updates
            stack.k = STEPS // 2
            stack._k_on_device.fill_(stack.k)
        stack.train(stack.k + 1)

    return step


def measure(
    name: str, before: Any, expected: Tensor, width: int, size: Size, seconds: float
) -> tuple[dict[str, Any], Callable[[], object]]:
    """Build a candidate, compare its losses, and time it in turn with the step as it is.

    Return what was found, and the step.
    """
    from gpt_candidates import change, settings, way_of
    from timing import alternate, median_interval, ratios

    way = way_of(name)
    started = time.perf_counter()
    with settings(way):
        stack = new_stack(width, size)
        change(stack, way)
        losses = first_losses(stack, size.compared)
        built = time.perf_counter() - started
        step = step_of(stack)
        makers = {"before": lambda: step_of(before), name: lambda: step}
        times = alternate(makers, seconds, builds=1, queue=2)
    deviations = ((losses - expected) / expected).abs()
    paired = ratios(times, name, "before")
    low, high = median_interval(paired)
    on_gpu = size.device == "cuda"
    found = {
        "ms": 1e3 * statistics.median(times[name]),
        "before_ms": 1e3 * statistics.median(times["before"]),
        "ratio": statistics.median(paired),
        "low": low,
        "high": high,
        "first": deviations[0].max().item(),
        "deviation": deviations.max().item(),
        "gigabytes": torch.cuda.max_memory_reserved() / 1e9 if on_gpu else 0.0,
        "built_s": built,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "note": _note(way.attention),
    }
    return found, step


def _note(attention: str) -> str:
    if attention != "triton":
        return ""
    from rotary_attention import chosen_sizes

    return chosen_sizes()


def in_this_process(
    names: Sequence[str], width: int, size: Size, seconds: float, folder: Path
) -> None:
    """Measure one candidate after the other, beside one stack that trains as it is."""
    from kernels import as_text, kernels_of

    if size.device == "cpu":  # the same without Inductor, which takes minutes
        torch.compile = partial(torch.compile, backend="aot_eager")
    started = time.perf_counter()
    before = new_stack(width, size)
    expected = first_losses(before, size.compared)
    before_built = time.perf_counter() - started
    for name in names:
        found, step = measure(name, before, expected, width, size, seconds)
        found["before_built_s"] = before_built
        print(MARK + json.dumps(found), flush=True)
        kernels = as_text(f"width {width}, {name}", kernels_of(step))
        (folder / f"kernels_{width}_{name}.txt").write_text(kernels)


# In the process that starts the others


def reason(output: str, status: int) -> str:
    """Why a process has failed: its last line, or the signal that ended it."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    return (errors or lines or ["no output"])[-1][:200]


def run(command: list[str], gpu: int, limit: float) -> dict[str, Any]:
    """What a process has found, or a note that says why it has not."""
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES=str(gpu))
    if "--tiny" in command:
        environment["TRITON_INTERPRET"] = "1"
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the compiler's own processes
        process.communicate()
        return {"note": f"no result within {limit:.0f} s"}
    for line in output.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    return {"note": f"failed: {reason(output, process.returncode)}", "output": output}


def row_of(found: dict[str, Any], width: int, name: str) -> str:
    if "ratio" not in found:
        return f"{width:5d} {name:28s} {found['note']}"
    interval = f"{found['ratio']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    times = f"{found['ms']:8.3f} ms of {found['before_ms']:8.3f}"
    deviations = f"{found['first']:.1e} {found['deviation']:.1e}"
    built = f"{found['built_s']:3.0f} s of {found['before_built_s']:3.0f}"
    rest = f"{found['gigabytes']:5.1f} GB {built} {found['note']}"
    return f"{width:5d} {name:28s} {times} {interval}  {deviations} {rest}"


class Table:
    """The rows, printed and written as they end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.csv"
        if not self.path.exists():
            with self.path.open("w", newline="") as file:
                csv.writer(file).writerow(COLUMNS)
        print("width candidate, ms, ratio, deviation at first and in 20 steps, memory, to build")

    def add(self, found: dict[str, Any], width: int, name: str) -> None:
        print(row_of(found, width, name), flush=True)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writerow({"width": width, "candidate": name, **found})
        if "output" in found:
            (self.folder / f"failed_{width}_{name}.txt").write_text(found["output"])


def arguments_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    from gpt_candidates import CANDIDATES

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(CANDIDATES), metavar="NAME")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 64, 128])
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring each")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for a process")
    parser.add_argument("--minutes", type=float, default=60.0, help="nothing is begun after these")
    parser.add_argument("--gpus", type=int, default=1, help="processes at once, each with its own")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with small models")
    parser.add_argument("--here", action="store_true", help="all in this process, at one width")
    return parser.parse_intermixed_args(arguments)  # names may follow options


def main() -> None:
    arguments = arguments_of()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    size = TINY if arguments.tiny else Size()
    widths = [32] if arguments.tiny else arguments.widths
    if arguments.here:
        in_this_process(
            arguments.names, arguments.widths[0], size, arguments.seconds, arguments.folder
        )
        return
    from gpt_candidates import way_of

    deadline = time.time() + 60 * arguments.minutes
    gpus: queue.Queue[int] = queue.Queue()
    for gpu in range(arguments.gpus):
        gpus.put(gpu)

    def found_of(width: int, name: str) -> dict[str, Any]:
        if arguments.tiny and way_of(name).cuda_only:
            return {"note": f"skipped on a CPU: {way_of(name).cuda_only}"}
        if time.time() > deadline:
            return {"note": "no time left"}
        command = [sys.executable, __file__, str(arguments.folder), name, "--here"]
        command += ["--widths", str(width), "--seconds", str(arguments.seconds)]
        command += ["--tiny"] if arguments.tiny else []
        gpu = gpus.get()
        try:
            return run(command, gpu, arguments.limit)
        finally:
            gpus.put(gpu)

    table = Table(arguments.folder)
    with ThreadPoolExecutor(arguments.gpus) as pool:
        waiting = {}
        for width, name in product(widths, arguments.names):
            waiting[pool.submit(found_of, width, name)] = width, name
        for future in as_completed(waiting):
            table.add(future.result(), *waiting[future])


if __name__ == "__main__":
    main()
