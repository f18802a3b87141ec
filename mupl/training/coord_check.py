"""A coordinate check of any model, in one process, without Lightning or Hydra."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mupl.analysis.coordinates import over_blocks
from mupl.errors import ConfigError
from mupl.roles import Build, Width
from mupl.stats.recorder import Recorder
from mupl.training.setup import Setup

CHECKED_KINDS = ("output", "param", "update", "gradient_update", "decay")
EXAMPLES = {"widths": "[64, 128, 256]", "depths": "[4, 8, 16]", "seeds": "range(5)"}
Batch = tuple[Tensor, Tensor]


def coord_check(
    build: Build,
    widths: Iterable[Width],
    batches: Iterable[Batch],
    *,
    base_width: Width,
    depths: Iterable[int] | None = None,
    seeds: Iterable[int] = range(5),
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    statistics: Sequence[str] = ("l1",),
    **setup: Any,
) -> pd.DataFrame:
    """Train `build(width)` for one step on each batch, at every width and seed, and record it.

    Args:
        batches: (x, target), one a step: t = 0, 1, ... Three are enough.
        depths: with one width, check against depth instead, that of `build(width, depth=depth)`,
            tuned at `base_depth`; rows have a column depth, and are means over the blocks.
        setup: further arguments of `Setup`: lr, parametrization, optimizer, loss, base_depth, ...

    Returns:
        A recorder's rows with the columns width, seed and the prediction: what
        `mupl.analysis.coordinates.verdict` and `mupl.figures.coordinates.plot_coordinates` take.

    Raises:
        ConfigError: if there is nothing to train; for depths, without `base_depth` or one width.

    >>> from torch import nn
    >>> from mupl.analysis.coordinates import verdict
    >>> def build(width):
    ...     return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 2))
    >>> batches = [(torch.eye(8), torch.arange(8) % 2)]
    >>> rows = coord_check(build, [64, 256], batches, base_width=64, lr=0.01)
    >>> verdict(rows)[["kind", "name", "low", "high", "verdict"]].tail(2)
         kind      name  low  high  verdict
    8  update  2.weight -1.0  -1.0    True
    9  update    2.bias  0.0   0.0    True
    """
    runs = _runs(widths, depths, seeds, setup.get("base_depth"))
    moved = _moved(batches, device, dtype)
    along = "width" if depths is None else "depth"
    tables = []
    for width, depth, seed in runs:
        with default_dtype(dtype):  # weights are drawn in it, not rounded to it
            one = Setup(build, width, base_width=base_width, depth=depth, seed=seed, **setup)
        one.model.to(device)
        rows = _train(one, moved, statistics, along).assign(width=width, seed=seed)
        tables.append(rows if depth is None else over_blocks(rows).assign(depth=depth))
    return pd.concat(tables, ignore_index=True)


def _runs(
    widths: Iterable[Width],
    depths: Iterable[int] | None,
    seeds: Iterable[int],
    base_depth: int | None,
) -> list[tuple[Width, int | None, int]]:
    """List (width, depth, seed) of each training; refuse none, or both width and depth swept."""
    widths, seeds = list(widths), list(seeds)
    all_depths = [None] if depths is None else list(depths)
    for key, values in {"widths": widths, "depths": all_depths, "seeds": seeds}.items():
        if not values:
            raise ConfigError(f"{key}: needs at least one, such as {key}={EXAMPLES[key]}")
    if depths is not None and len(widths) > 1:
        raise ConfigError("widths: a check against depth has one width, such as widths=[64]")
    if depths is not None and base_depth is None:
        raise ConfigError(
            "base_depth: a check against depth needs the depth where lr was tuned, such as "
            "base_depth=2"
        )
    return list(itertools.product(widths, all_depths, seeds))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` that of new floating-point tensors, as `torch.set_default_dtype` does."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _moved(batches: Iterable[Batch], device: str | torch.device, dtype: torch.dtype) -> list[Batch]:
    """Move batches to the device; refuse none."""
    moved = [(_to(x, device, dtype), target.to(device)) for x, target in batches]
    if not moved:
        raise ConfigError("batches: needs at least one (x, target), and better three")
    return moved


def _to(x: Tensor, device: str | torch.device, dtype: torch.dtype) -> Tensor:
    """Move inputs to the device, and to the dtype unless they are numbers of tokens."""
    if x.is_floating_point():
        return x.to(device, dtype)
    return x.to(device)


def _train(
    setup: Setup, batches: Iterable[Batch], statistics: Sequence[str], along: str
) -> pd.DataFrame:
    """Make a step on each batch, and return the rows of a recorder."""
    optimizer = setup.optimizer()
    recorder = Recorder(
        setup.model,
        setup.scales,
        kinds=CHECKED_KINDS,
        statistics=statistics,
        optimizer=optimizer,
        expected=partial(setup.expected_exponents, along=along),
    )
    with recorder:
        for x, target in batches:
            recorder.begin_step()
            optimizer.zero_grad()
            loss = setup.loss(setup.model(x), target)
            loss.backward()
            optimizer.step()
            recorder.end_step()
    return recorder.frame()
