"""What a coordinate check costs beside the training that it watches, ours and PyPI mup's.

    OMP_NUM_THREADS=1 python benchmarks/coord_check_cost.py

The latter is `get_coord_data`. The check is of the 3-layer MLP (3072-w-w-10), 3 steps of Adam on
one batch of 64 of CIFAR-10 shape, one run a width and seed. Runs with and without statistics take
turns in one process. Ratios are to the bare run of the same engine, because the engines build and
train in different ways. "check": building the model and the steps, which is what get_coord_data
does; "steps": the steps alone. Recorded, at t = 0, 1, 2:

- `outputs`: l1 of layer outputs; it is all that get_coord_data records unless told (it adds the
  whole model's output);
- `weights`: and l1 of weights and biases (mup: `param_fdict`, which measures each again as one of
  the whole model);
- `l1`: and l1 of the update that follows: our default; mup has no updates;
- `norms`: and Frobenius, spectral, RMS->RMS norm and stable rank of the updates;
- `everything`: all eight statistics of outputs, weights, biases and updates.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mup import MuReadout, set_base_shapes
from mup.coord_check import get_coord_data
from timing import Step, Times, add_rows, alternate, new_table, show
from torch import nn

from mupl.models import MLP
from mupl.nn.initialize import initialize_
from mupl.nn.tensors import parameters
from mupl.optim.groups import build_optimizer
from mupl.optim.scaling import scale
from mupl.roles import describe
from mupl.stats.recorder import Recorder
from mupl.stats.reductions import STATISTICS

# of measuring each block, by width
SECONDS = {128: 4.0, 256: 6.0, 512: 10.0, 1024: 20.0, 2048: 40.0}
STEPS, BATCH, LR, BASE_WIDTH = 3, 64, 1e-3, 128
X, Y = torch.randn(BATCH, 3 * 32 * 32), torch.randint(10, (BATCH,))
L1: dict[str, Any] = {"kinds": ["output", "param", "update"]}
NORMS = {
    "kinds": ["update"],
    "statistics": ["l1", *(name for name, s in STATISTICS.items() if s.of_matrices)],
}
RECORDED: dict[str, list[dict[str, Any]]] = {
    "bare": [],
    "outputs": [{"kinds": ["output"]}],
    "weights": [{"kinds": ["output", "param"]}],
    "l1": [L1],
    "norms": [{"kinds": ["output", "param"]}, NORMS],  # one copy of the weights,
    "everything": [L1 | {"statistics": STATISTICS}],
}
MUP_RECORDED: dict[str, dict[str, Any]] = {
    "bare": {"filter_module_by_name": lambda name: False},
    "outputs": {},
    "weights": {"param_fdict": {"l1": "l1"}},
}
TARGETS = {"outputs": 1.05, "weights": 1.05, "l1": 1.05, "norms": 1.4, "everything": 1.4}

Build = Callable[[], tuple[nn.Module, dict, torch.optim.Optimizer]]


def builder(width: int) -> Build:
    """A function that builds model, scales and optimizer anew.

    The roles are looked up once, as for all seeds of a width.
    """
    numbers = scale(
        describe(lambda w: MLP(3072, 10, w, depth=2), width, BASE_WIDTH),
        "mup",
        "adam",
        lr=LR,
    )

    def build() -> tuple[nn.Module, dict, torch.optim.Optimizer]:
        model = initialize_(MLP(3072, 10, width, depth=2), numbers, seed=0)
        return (
            model,
            numbers,
            build_optimizer(torch.optim.Adam, parameters(model, numbers), numbers),
        )

    return build


def train(
    model: nn.Module,
    numbers: dict,
    optimizer: torch.optim.Optimizer,
    recorded: list[dict[str, Any]],
) -> None:
    with ExitStack() as stack:
        steps = range(STEPS)
        recorders = [
            stack.enter_context(Recorder(model, numbers, steps=steps, **options))
            for options in recorded
        ]
        for _ in steps:
            for recorder in recorders:
                recorder.begin_step()
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            for recorder in recorders:
                recorder.end_step()


def check(build: Build, recorded: list[dict[str, Any]]) -> None:
    train(*build(), recorded)


def steps_of(build: Build, recorded: list[dict[str, Any]]) -> Step:
    """The steps alone: they go on with one model."""
    return partial(train, *build(), recorded)


def mup_model(width: int) -> nn.Module:
    layers = (
        nn.Linear(3072, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        MuReadout(width, 10),
    )
    return set_base_shapes(nn.Sequential(*layers), None)


def mup_check(width: int, options: dict[str, Any]) -> None:
    get_coord_data(
        {width: lambda: mup_model(width)},
        [(X, Y)],
        optimizer="adam",
        lr=LR,
        nsteps=STEPS,
        nseeds=1,
        cuda=False,
        show_progress=False,
        **options,
    )


def measure(width: int) -> dict[str, Times]:
    """Seconds a run, by block and what is recorded."""
    build = builder(width)
    blocks: dict[str, dict[str, Callable[[], Step]]] = {
        "check": {
            name: partial(partial, check, build, options) for name, options in RECORDED.items()
        },
        "steps": {name: partial(steps_of, build, options) for name, options in RECORDED.items()},
        "mup": {
            name: partial(partial, mup_check, width, options)
            for name, options in MUP_RECORDED.items()
        },
    }
    makers = {
        f"{block}/{name}": maker for block, runs in blocks.items() for name, maker in runs.items()
    }
    times = alternate(makers, SECONDS[width], builds=1)
    return {
        block: {name: times[f"{block}/{name}"] for name in runs} for block, runs in blocks.items()
    }


def total(by_width: list[Times]) -> Times:
    """Seconds a run of every width, round by round."""
    return {
        name: [sum(parts) for parts in zip(*(times[name] for times in by_width), strict=False)]
        for name in by_width[0]
    }


def main() -> None:
    measured = {width: measure(width) for width in SECONDS}
    table = new_table("Coordinate check with and without statistics; time of a run")
    for block in ("check", "steps", "mup"):
        for width, times in measured.items():
            add_rows(table, f"{block}, w={width}", times[block], "bare")
        add_rows(
            table,
            f"{block}, all widths",
            total([times[block] for times in measured.values()]),
            "bare",
            TARGETS,
        )
    show(table)


if __name__ == "__main__":
    main()
