"""A coordinate check of any model, in one process, without Lightning or Hydra."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from mupl.analysis.coordinates import over_blocks
from mupl.errors import ConfigError
from mupl.names import block_pattern
from mupl.roles import Build, Width
from mupl.stats.attention import unseen
from mupl.stats.outputs import main_tensor
from mupl.stats.recorder import Recorder, checked_steps
from mupl.training.setup import Setup

CHECKED_KINDS = (
    "logits",
    "output",
    "attention_logits",
    "param",
    "update",
    "gradient_update",
    "decay",
    "effective",
    "propagating",
    "alignment",
    "grad",  # tells which updates are of rounding errors
)
EXAMPLES = {"width": "[64, 128, 256]", "depth": "[4, 8, 16]", "seed": "range(5)"}
Batch = Any  # (x, target), a dict of the model's arguments, or whatever `step` takes
Step = Callable[[nn.Module, Any], Tensor]


class _Recording(NamedTuple):
    """What is recorded of a training, and how the loss of a batch is made."""

    steps: list[int] | None  # None: as batches and optimizer say
    kinds: Sequence[str]
    statistics: Sequence[str]
    step: Step | None


def coord_check(
    build: Build,
    widths: Iterable[Width],
    batches: Iterable[Batch],
    *,
    base_width: Width,
    depths: Iterable[int] | None = None,
    seeds: Iterable[int] = range(5),
    device: str | torch.device = "cpu",
    steps: Iterable[int] | None = None,
    kinds: Sequence[str] = CHECKED_KINDS,
    statistics: Sequence[str] = ("l1",),
    step: Step | None = None,
    **setup: Any,
) -> pd.DataFrame:
    """Train `build(width)` for one step on each batch, at every width and seed, and record it.

    Args:
        batches: one a step; three are enough. A batch is (x, target), or a dict of arguments for a
            model that returns its loss. Parts of the change of outputs are seen on the first one.
            Floating-point inputs are moved to torch's default dtype, which weights have too.
        depths: with one width, check against depth instead, by `build(width, depth=depth)`
            tuned at `base_depth`; rows have a column depth, and are means over the blocks.
        steps: those to record, such as [0, 1, 4, 16, 64], of which the last ends the training.
            By default one a batch, or `OptimizerRules.check_steps` where updates settle late.
        kinds, statistics: of `mupl.stats.rows.KINDS` and `mupl.stats.reductions.STATISTICS`.
        step: `(model, batch) -> loss`, for batches of another kind.
        setup: further arguments of `Setup`: lr, parametrization, optimizer, loss, base_depth, ...

    Returns:
        A recorder's rows with the columns width, seed and the prediction; for `mupl.verdict`.

    Raises:
        ConfigError: on nothing to train, no loss, bad steps, depths without `base_depth`, ...

    >>> from mupl.analysis.coordinates import verdict
    >>> build = lambda width: nn.Sequential(nn.Linear(8, width), nn.Linear(width, 2))
    >>> batches = [(torch.eye(8), torch.arange(8) % 2)]
    >>> rows = coord_check(build, [64, 256], batches, base_width=64, lr=0.01)
    >>> "fail" in set(verdict(rows)["verdict"])
    False
    """
    recording = _Recording(_checked_steps(steps), kinds, statistics, step)
    moved = _moved(batches, recording.steps, device)
    tables = []
    for run in _runs(widths, depths, seeds, setup.get("base_depth")):
        one = Setup(build, base_width=base_width, **setup, **run)
        one.model.to(device)
        tables.append(_train(one, moved, recording, run))
    return pd.concat(tables, ignore_index=True)


def _runs(
    widths: Iterable[Width],
    depths: Iterable[int] | None,
    seeds: Iterable[int],
    base_depth: int | None,
) -> list[dict[str, Any]]:
    """List width, seed and depth, if given, of each training; refuse none, or two sizes swept."""
    given: dict[str, Any] = {"width": widths, "seed": seeds}
    if depths is not None:
        given["depth"] = depths
    swept = {}
    for key, values in given.items():
        if not isinstance(values, Iterable):
            raise ConfigError(f"{key}s={values}: must be a list, such as {key}s={EXAMPLES[key]}")
        swept[key] = list(values)
        if not swept[key]:
            raise ConfigError(f"{key}s: needs at least one, such as {key}s={EXAMPLES[key]}")
    if depths is not None and len(swept["width"]) > 1:
        raise ConfigError("widths: a check against depth has one width, such as widths=[64]")
    if depths is not None and base_depth is None:
        raise ConfigError(
            "base_depth: a check against depth needs the depth where lr was tuned, such as "
            "base_depth=2"
        )
    return [dict(zip(swept, run, strict=True)) for run in itertools.product(*swept.values())]


def _checked_steps(steps: Iterable[int] | None) -> list[int] | None:
    """Return the steps in order, and None as it is."""
    if steps is None:
        return None
    listed = [] if isinstance(steps, str) or not isinstance(steps, Iterable) else sorted(steps)
    if not listed or not isinstance(checked_steps(listed, "steps"), frozenset):
        raise ConfigError(f"steps={steps}: must be a list of steps, such as [0, 1, 2, 4, 16, 64]")
    return listed


def _moved(
    batches: Iterable[Batch], steps: list[int] | None, device: str | torch.device
) -> list[Batch]:
    """Move as many batches to the device as the steps need, by default all; refuse none."""
    needed = None if steps is None else steps[-1] + 1
    moved = [_to(batch, device) for batch in itertools.islice(batches, needed)]
    if not moved:
        raise ConfigError("batches: needs at least one (x, target), and better three")
    return moved


def _to(batch: Any, device: str | torch.device) -> Any:
    """Move a batch to the device, and to torch's default dtype unless it is whole numbers."""
    if isinstance(batch, Tensor):
        return batch.to(device, torch.get_default_dtype() if batch.is_floating_point() else None)
    if isinstance(batch, Mapping):
        return {key: _to(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [_to(value, device) for value in batch]
    return batch


def _train(
    setup: Setup, batches: list[Batch], recording: _Recording, run: dict[str, Any]
) -> pd.DataFrame:
    """Make steps on the batches, and return the rows of a recorder, with the run's own columns.

    Rows of a run that has a depth are means over blocks. A warning names what could not be looked
    at.
    """
    along = "depth" if "depth" in run else "width"
    steps = recording.steps
    if steps is None:
        rules = setup.optimizer_rules
        steps = rules.check_steps if rules.settled else list(range(len(batches)))
    optimizer = setup.optimizer()
    recorder = Recorder(
        setup.model,
        setup.scales,
        kinds=recording.kinds,
        statistics=recording.statistics,
        steps=steps,
        probe=partial(_output, batch=batches[0], step=recording.step),
        optimizer=optimizer,
        expected=partial(setup.expected_exponents, along=along),
    )
    with recorder:
        for batch in itertools.islice(itertools.cycle(batches), steps[-1] + 1):
            recorder.begin_step()
            optimizer.zero_grad()
            loss = recording.step(setup.model, batch) if recording.step else _loss(setup, batch)
            loss.backward()
            optimizer.step()
            recorder.end_step()
    for sentence in _unseen(setup.model, recorder):
        warnings.warn(sentence, stacklevel=3)
    rows = recorder.frame()
    if along == "depth":
        rows = over_blocks(rows)
    return rows.assign(**run)


def _output(model: nn.Module, batch: Batch, step: Step | None) -> Any:
    """Call the model with a batch as a step on it does."""
    if step is not None:
        return step(model, batch)
    return model(**batch) if isinstance(batch, Mapping) else model(_pair(batch)[0])


def _pair(batch: Batch) -> tuple[Any, Any]:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise ConfigError(
            "batches: each must be (x, target) or a dict; say step=lambda model, batch: ... that "
            "returns the loss of another kind"
        )
    return batch[0], batch[1]


def _loss(setup: Setup, batch: Batch) -> Tensor:
    """Return the loss of a batch where it is obvious how to get it."""
    output = _output(setup.model, batch, None)
    if isinstance(batch, Mapping):
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(loss, Tensor):
            return loss
        raise ConfigError(
            "batches: the model returns no loss for a dict, such as {'input_ids': ..., 'labels': "
            "...}; say step=lambda model, batch: ... that returns one"
        )
    logits = main_tensor(output)
    if logits is None:
        raise ConfigError(
            "build: the model returns no tensor for x; say step=lambda model, batch: ... that "
            "returns a loss"
        )
    return setup.loss(logits, _pair(batch)[1])


def _unseen(model: nn.Module, recorder: Recorder) -> list[str]:
    """Say what a check cannot look at of what it was asked for."""
    rows = recorder.rows
    found = []
    if "logits" in recorder.kinds and not any(row["kind"] == "logits" for row in rows):
        found.append("the model returns no tensor, so that its logits are not looked at")
    if "attention_logits" not in recorder.kinds:
        return found
    seen = {row["name"] for row in rows if row["kind"] == "attention_logits"}
    if modules := unseen(model, seen):
        names = ", ".join(dict.fromkeys(map(block_pattern, modules)))
        found.append(
            f"attention logits of {names} are not looked at: they are not taken by a softmax or "
            "scaled_dot_product_attention of torch"
        )
    return found
