"""A coordinate check of any model, in one process, without Lightning's loop or Hydra."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mupl.analysis.coordinates import over_blocks
from mupl.roles import Build, Width
from mupl.stats.recorder import Recorder
from mupl.training.module import TrainingModule

CHECKED_KINDS = ("output", "param", "update", "gradient_update", "decay")


def coord_check(
    build: Build,
    widths: Iterable[Width],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    base_width: Width,
    depths: Iterable[int] | None = None,
    seeds: Iterable[int] = range(5),
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    statistics: Sequence[str] = ("l1",),
    **module: Any,
) -> pd.DataFrame:
    """Train `build(width)` for one step on each batch, at every width and seed, and record its coordinates.

    Args:
        depths: with one width, check against depth instead, that of `build(width, depth=depth)`; the rows have a column
            depth and, for each name in the blocks, the mean over blocks.
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
    tables = []
    batches = [
        (x.to(device, dtype) if x.is_floating_point() else x.to(device), y.to(device))
        for x, y in batches
    ]
    along = "width" if depths is None else "depth"
    for width, depth, seed in itertools.product(
        widths, [None] if depths is None else depths, seeds
    ):
        with default_dtype(dtype):  # weights are drawn in it, not rounded to it
            trained = TrainingModule(
                build, width, base_width=base_width, depth=depth, seed=seed, **module
            ).to(device)
        rows = _record(trained, batches, statistics, along).assign(width=width, seed=seed)
        tables.append(rows if depth is None else over_blocks(rows).assign(depth=depth))
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
    module: TrainingModule,
    batches: Sequence[tuple[Tensor, Tensor]],
    statistics: Sequence[str],
    along: str,
) -> pd.DataFrame:
    optimizer = module.build_optimizer()
    recorder = Recorder(
        module.model,
        module.scales,
        kinds=CHECKED_KINDS,
        statistics=statistics,
        optimizer=optimizer,
        expected=partial(module.expected_exponents, along=along),
    )
    with recorder:
        for x, target in batches:
            recorder.begin_step()
            optimizer.zero_grad()
            module.loss(module.model(x), target).backward()
            optimizer.step()
            recorder.end_step()
    return recorder.frame()
