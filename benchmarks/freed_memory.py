"""Steps of a stack on a CPU, with and without `keep_freed_memory`.

    OMP_NUM_THREADS=1 python benchmarks/freed_memory.py

The setting holds for a whole process, so processes take turns: each builds a stack of MLPs
784-w-w-10 under Adam and times 200 steps of batch 64, after 20 others.
"""

import subprocess
import sys
import time

from stacked import images, stacked
from timing import Times, add_rows, new_table, show

from mupl.stacked.memory import keep_freed_memory

ROUNDS = 5
STEPS = 200
MEMBERS = {64: 45, 256: 9, 1024: 2}  # by width
WITHOUT, WITH = "without", "with"


def seconds(width: int) -> float:
    """Return how long a step takes in this process."""
    step = stacked(images(1, 28, 20_000), width, 64, "cpu", MEMBERS[width])
    for _ in range(20):
        step()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    table = new_table("Training steps of a stack, batch 64", "cpu")
    for width, members in MEMBERS.items():
        times: Times = {WITHOUT: [], WITH: []}
        for _ in range(ROUNDS):
            for name, of_name in times.items():
                command = [sys.executable, __file__, name, str(width)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                of_name.append(float(done.stdout))
        add_rows(table, f"width {width}, {members} members", times, WITH)
    show(table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        if sys.argv[1] == WITH:
            keep_freed_memory()
        print(seconds(int(sys.argv[2])))
    else:
        main()
