"""Steps of a stack on a CPU, with and without `keep_freed_memory`.

    OMP_NUM_THREADS=1 python benchmarks/freed_memory.py

The setting holds for a whole process, so processes take turns: each builds a stack of MLPs
784-w-w-10 under Adam and times 200 steps of batch 64, after 20 others.
"""

import subprocess
import sys
import time
from functools import partial

import torch

from mupl.data import Splits
from mupl.models import MLP
from mupl.stacked.memory import keep_freed_memory
from mupl.stacked.stack import Stack
from mupl.training.setup import Setup

ROUNDS = 5
STEPS = 200
MEMBERS = {64: 45, 256: 9, 1024: 2}  # by width
WITHOUT, WITH = "without", "with"


def milliseconds(width: int) -> float:
    """Return how long a step takes in this process."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (20_000, 1, 28, 28), dtype=torch.uint8, generator=generator)
    y = torch.randint(10, (20_000,), generator=generator)
    splits = Splits(x, y, x[:1000], y[:1000], 10)
    build = partial(MLP, 784, 10, depth=2)
    setup = partial(Setup, build, width, base_width=32, optimizer="adam", parametrization="mup")
    with torch.device("meta"):
        setups = [setup(lr=1e-4 * (1 + i)) for i in range(MEMBERS[width])]
    stack = Stack(setups, splits, batch_size=64, max_steps=20 + STEPS, device=torch.device("cpu"))
    stack.train(20)
    start = time.perf_counter()
    stack.train(20 + STEPS)
    return 1000 * (time.perf_counter() - start) / STEPS


def main() -> None:
    # here, as timing keeps the memory of its own process
    from timing import Times, add_rows, new_table, show

    table = new_table("Training steps of a stack, batch 64", "cpu")
    for width, members in MEMBERS.items():
        times: Times = {WITHOUT: [], WITH: []}
        for _ in range(ROUNDS):
            for name, of_name in times.items():
                command = [sys.executable, __file__, name, str(width)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                of_name.append(float(done.stdout) / 1000)
        add_rows(table, f"width {width}, {members} members", times, WITH)
    show(table)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        if sys.argv[1] == WITH:
            keep_freed_memory()
        print(milliseconds(int(sys.argv[2])))
    else:
        main()
