"""A coordinate check of any model, in one process, without Lightning's loop or Hydra."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mupl.roles import Build, Width
from mupl.stats.recorder import Recorder
from mupl.training.module import TrainingModule

if TYPE_CHECKING:
    import pandas as pd


CHECKED_KINDS = ("output", "param", "update", "gradient_update", "decay")


def coord_check(
    build: Build,
    widths: Iterable[Width],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    base_width: Width,
    seeds: Iterable[int] = range(5),
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    statistics: Sequence[str] = ("l1",),
    **module: Any,
) -> "pd.DataFrame":
    """Train `build(width)` for one step on each batch, at every width and seed, and record its coordinates.

    Args:
        batches: (x, target), one a step: t = 0, 1, ... Three are enough.
        module: further arguments of `TrainingModule`: lr, parametrization, optimizer, loss, ...

    Returns:
        A recorder's rows with the columns width, seed and the prediction: what `mupl.analysis.coordinates.verdict` and
        `mupl.figures.coordinates.coordinate_check` take.

    Example:
        rows = coord_check(build, [64, 128, 256, 512], batches, base_width=64, parametrization="mup", lr=0.01)
        table = verdict(rows)
        assert table["passed"].all(), table[~table["passed"]]
    """
    import pandas as pd

    tables = []
    batches = [(x.to(device, dtype) if x.is_floating_point() else x.to(device), y.to(device)) for x, y in batches]
    seeds = list(seeds)
    for width in widths:
        for seed in seeds:
            with default_dtype(dtype):  # weights are drawn in it, not rounded to it
                trained = TrainingModule(build, width, base_width=base_width, seed=seed, **module).to(device)
            tables.append(_record(trained, batches, statistics).assign(width=width, seed=seed))
    return pd.concat(tables, ignore_index=True)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _record(
    module: TrainingModule, batches: Sequence[tuple[Tensor, Tensor]], statistics: Sequence[str]
) -> "pd.DataFrame":
    optimizer = module.build_optimizer()
    recorder = Recorder(
        module.model,
        module.scales,
        kinds=CHECKED_KINDS,
        statistics=statistics,
        optimizer=optimizer,
        expected=module.expected_exponents,
    )
    with recorder:
        for x, target in batches:
            recorder.begin_step()
            optimizer.zero_grad()
            module.loss(module.model(x), target).backward()
            optimizer.step()
            recorder.end_step()
    return recorder.frame()
