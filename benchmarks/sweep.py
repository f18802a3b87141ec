"""A sweep of 63 jobs under the stacked launcher beside the same under Hydra's basic one, as whole processes in turn.

    python benchmarks/sweep.py FOLDER   # with MNIST/raw in it

7 widths x 9 learning rates, 784-w-w-10, 100 steps, batch 64. A launcher's start-up is what its sweep of two jobs of one
step takes: imports, two configs, the report.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3
JOB = ["data=mnist", "trainer=cpu", "depth=2", "base_width=32", "batch_size=64", "optimizer=adam"]
SWEEP = [
    *JOB,
    "max_steps=100",
    "width=4,8,16,32,64,128,256",
    "lr=1e-3,2e-3,4e-3,8e-3,1.6e-2,3.2e-2,6.4e-2,1.28e-1,2.56e-1",
]
SHORT = ["max_steps=1", "width=4", "lr=1e-3,2e-3"]
PROGRAMS = {
    "basic": SWEEP,
    "stacked": ["hydra/launcher=stacked", *SWEEP],
    "start-up, basic": [*JOB, *SHORT],
    "start-up, stacked": ["hydra/launcher=stacked", *JOB, *SHORT],
}


def seconds(arguments: list[str], data: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "train.py",
            "-m",
            *arguments,
            f"data.root={data}",
            f"hydra.sweep.dir={folder}",
        ]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ)
        return time.perf_counter() - started


def main() -> None:
    data = str(Path(sys.argv[1]).resolve())
    times: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, arguments in PROGRAMS.items():
            times[name].append(seconds(arguments, data))
    for name, values in times.items():
        print(
            f"{name}: median {statistics.median(values):.2f} s of {', '.join(f'{v:.2f}' for v in sorted(values))}"
        )
    rounds = list(zip(*times.values(), strict=True))
    whole = statistics.median(basic / stacked for basic, stacked, _, _ in rounds)
    without = statistics.median(
        (basic - start) / (stacked - begin) for basic, stacked, start, begin in rounds
    )
    print(f"basic over stacked: {whole:.2f} (target 5), without start-up {without:.2f} (target 14)")


if __name__ == "__main__":
    main()
