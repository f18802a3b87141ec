"""Drawing the initial weights of a stack: members of one seed over as many of different seeds.

    OMP_NUM_THREADS=1 python benchmarks/initial_weights.py

The members differ in their learning rates, or in their seeds as well. Weights are drawn on the CPU,
also for a GPU.
"""

from collections.abc import Callable
from functools import partial

import torch
from timing import add_rows, alternate, new_table, show

from mupl.models import MLP
from mupl.stacked.model import sample_weights
from mupl.training.setup import Setup

MEMBERS = 13
SECONDS = 20.0


def drawing(width: int, seeds: int) -> Callable[[], object]:
    """Return what draws the weights of MLPs 3072-w-w-10, with this many seeds."""
    build = partial(MLP, 3072, 10, depth=2)
    with torch.device("meta"):
        setup = Setup(build, width, base_width=64, lr=1e-3)
    members = []
    for i in range(MEMBERS):
        tuned = {"eps": 1e-8, "weight_decay": 0.0, "weight_decay_mode": "decoupled", "tune": None}
        members.append(setup.with_tuned(seed=i % seeds, lr=1e-3 * 2**i, **tuned))
    return partial(sample_weights, members, torch.device("cpu"), torch.float32)


def main() -> None:
    table = new_table(f"Drawing the weights of {MEMBERS} members", "cpu")
    for width in (64, 1024):
        makers = {
            f"{seeds} seed{'s' * (seeds > 1)}": partial(drawing, width, seeds)
            for seeds in (MEMBERS, 1)
        }
        add_rows(table, f"width {width}", alternate(makers, SECONDS), "1 seed")
    show(table)


if __name__ == "__main__":
    main()
