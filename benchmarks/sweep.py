"""Sweeps as whole processes: 63 jobs under the stacked and the basic launcher, and many jobs.

    python benchmarks/sweep.py FOLDER               # with MNIST/raw in it
    python benchmarks/sweep.py FOLDER --beside TREE # the stacked sweep here and in another checkout

The 63 jobs are 7 widths x 9 learning rates, 784-w-w-10, 100 steps, batch 64. A launcher's start-up
is what its sweep of two jobs of one step takes: imports, two configs, the report. "many jobs" are
504 of two steps on the digits: nearly all of it is composing configs and writing files.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3
ROUNDS_BESIDE = 5
JOB = ["data=mnist", "trainer=cpu", "depth=2", "base_width=32", "batch_size=64", "optimizer=adam"]
SWEEP = [
    *JOB,
    "max_steps=100",
    "width=4,8,16,32,64,128,256",
    "lr=1e-3,2e-3,4e-3,8e-3,1.6e-2,3.2e-2,6.4e-2,1.28e-1,2.56e-1",
]
SHORT = ["max_steps=1", "width=4", "lr=1e-3,2e-3"]
MANY = [
    "data=digits",
    "trainer=cpu",
    "depth=1",
    "width=4",
    "base_width=4",
    "max_steps=2",
    "seed=range(0,24)",
    "lr=" + ",".join(f"{k}e-3" for k in range(1, 22)),
]
PROGRAMS = {
    "basic": SWEEP,
    "stacked": ["hydra/launcher=stacked", *SWEEP],
    "start-up, basic": [*JOB, *SHORT],
    "start-up, stacked": ["hydra/launcher=stacked", *JOB, *SHORT],
    "many jobs, stacked": ["hydra/launcher=stacked", *MANY],
}


def seconds(arguments: list[str], data: str, tree: Path = ROOT) -> tuple[float, float]:
    """Return how long a multirun of a checkout takes by the clock, and in processor time."""
    plugin = next(tree.glob("mupl/*/plugin"))
    environment = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{plugin}"}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "train.py",
            "-m",
            *arguments,
            f"data.root={data}",
            f"hydra.sweep.dir={folder}",
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL, env=environment)
        wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def beside(tree: Path, data: str) -> None:
    """Run the stacked sweep here and in another checkout in turn."""
    trees = {"here": ROOT, "there": tree.resolve()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
    for _ in range(ROUNDS_BESIDE):
        for name, folder in trees.items():
            found[name].append(seconds(PROGRAMS["stacked"], data, folder))
    for name, pairs in found.items():
        walls, processor = zip(*pairs, strict=True)
        for unit, values in (("by the clock", walls), ("of processor time", processor)):
            median = statistics.median(values)
            print(f"{name}: median {median:.1f} s {unit}, {min(values):.1f} to {max(values):.1f}")


def compare_launchers(data: str) -> None:
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, arguments in PROGRAMS.items():
            wall, _ = seconds(arguments, data)
            times[name].append(wall)
    for name, values in times.items():
        each = ", ".join(f"{value:.2f}" for value in sorted(values))
        print(f"{name}: median {statistics.median(values):.2f} s of {each}")
    ratios = []
    ratios_without = []
    for basic, stacked, start, begin, _ in zip(*times.values(), strict=True):
        ratios.append(basic / stacked)
        ratios_without.append((basic - start) / (stacked - begin))
    whole = statistics.median(ratios)
    without = statistics.median(ratios_without)
    print(f"basic over stacked: {whole:.2f} (target 5), without start-up {without:.2f} (target 14)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--beside", type=Path, metavar="TREE")
    arguments = parser.parse_args()
    data = str(arguments.data.resolve())
    if arguments.beside is None:
        compare_launchers(data)
    else:
        beside(arguments.beside, data)


if __name__ == "__main__":
    main()
