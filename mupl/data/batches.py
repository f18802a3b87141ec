"""Batches made on the device where the data lie, the same for one model as for a stack of them.

The training batches of G seeds are chosen by `set_step(k)`, on the host, and made by a call, which
reads memory that stays where it is: a stack captures it as a part of a CUDA graph. A batch is a
function of (seed, k). One model has G = 1 and iterates over its batches by a `TrainLoader`.

A batch can be cut into equal parts, of which `set_step(k, part)` chooses one: for processes that
each see their own, and for micro-batches whose gradients accumulate.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mupl.errors import ConfigError

# (N,) of any integer type; an array may be mapped from a file and stays on the host
TokenArray = Tensor | np.ndarray
Batch = tuple[Tensor, Tensor]  # (x, y)


def seeded(seed: int, index: int) -> torch.Generator:
    """A generator for epoch or step `index` of a run; on the CPU, so that devices draw the same."""
    # SeedSequence mixes the pair; a sum would make epoch 1 of seed 0 be epoch 0 of seed 1.
    mixed = np.random.SeedSequence((seed, index)).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def epoch_order(num_examples: int, seed: int, epoch: int) -> Tensor:
    """Permutation of the examples, (num_examples,) int64: a function of (seed, epoch)."""
    return torch.randperm(num_examples, generator=seeded(seed, epoch))


def crop_starts(last: int, count: int, seed: int, step: int) -> Tensor:
    """Where the crops of a step begin, (count,) int64 in 0..last: a function of (seed, step)."""
    return torch.randint(last + 1, (count,), generator=seeded(seed, step))


def read_crops(tokens: TokenArray, starts: Tensor, length: int) -> Tensor:
    """The tokens from each start on: starts (...) -> (..., length) int64, where the tokens lie."""
    if isinstance(tokens, Tensor):
        starts = starts.to(tokens.device, non_blocking=True)
        places = starts[..., None] + torch.arange(length, device=tokens.device)
        return tokens[places].long()
    places_on_host = starts.numpy()[..., None] + np.arange(length)
    crops = tokens[places_on_host].astype(np.int64)
    return torch.from_numpy(crops)


class Normalise:
    """x (..., C, H, W) uint8 -> (x / 255 - mean) / std in float32, for mean and std (C,)."""

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device) -> None:
        scale = 1 / (255 * std)
        shift = -mean / std
        self._scale = scale.to(device, torch.float32)[:, None, None]
        self._shift = shift.to(device, torch.float32)[:, None, None]

    def __call__(self, x: Tensor) -> Tensor:
        # In place; one torch.addcmul in place of the three is two times slower on the CPU.
        y = x.to(torch.float32)
        return y.mul_(self._scale).add_(self._shift)


class ExampleBatches:
    """Shuffled training batches, x (G, B, ...) and y (G, B, ...), for each of G seeds.

    Step k of a seed has batch `k mod per_epoch` of its `epoch_order` in epoch `k // per_epoch`. The
    examples of an incomplete last batch are left out.

    Args:
        x: examples (N, ...), on the device on which batches are made.
        y: labels (N,), or targets (N, K).
        prepared: makes inputs of rows of x, such as `Normalise` of images.
        parts: into how many equal parts a batch is cut.

    Attributes:
        per_epoch: steps in an epoch.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        prepared: Callable[[Tensor], Tensor],
        batch_size: int,
        seeds: Sequence[int],
        parts: int = 1,
    ) -> None:
        self.per_epoch = len(x) // batch_size
        self._x = x
        self._y = y
        self._prepared = prepared
        self._seeds = list(seeds)
        self._epoch: int | None = None
        # of an epoch, (G, per_epoch, parts, B / parts)
        self._orders = torch.empty(
            len(seeds),
            self.per_epoch,
            parts,
            batch_size // parts,
            dtype=torch.int64,
            device=x.device,
        )
        self._rows = self._orders[:, 0, 0].clone()  # of a part of a step, (G, B / parts)

    def set_step(self, k: int, part: int = 0) -> None:
        """Choose the batches of step k, or one of their parts."""
        epoch, batch = divmod(k, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._set_orders(epoch)
        self._rows.copy_(self._orders[:, batch, part])

    def _set_orders(self, epoch: int) -> None:
        orders = {seed: epoch_order(len(self._x), seed, epoch) for seed in set(self._seeds)}
        for index, seed in enumerate(self._seeds):
            rows = self._orders[index]
            used = orders[seed][: rows.numel()]
            rows.copy_(used.view_as(rows), non_blocking=True)

    def __call__(self) -> Batch:
        rows = self._rows.flatten()
        x = self._prepared(self._x.index_select(0, rows))
        y = self._y.index_select(0, rows)
        return x.unflatten(0, self._rows.shape), y.unflatten(0, self._rows.shape)


class CropBatches:
    """Random crops to train on, x and y (G, B, T) int64, for each of G seeds.

    y is x one token later.

    Step k of a seed has the crops at `crop_starts` of (seed, k). An epoch is as many steps as make
    the number of tokens.

    Args:
        tokens: (N,); a tensor is kept on `device`, an array on the host.
        context: T.
        parts: into how many equal parts a batch is cut.

    Attributes:
        per_epoch: steps in an epoch.
    """

    def __init__(
        self,
        tokens: TokenArray,
        context: int,
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device,
        parts: int = 1,
    ) -> None:
        self.per_epoch = max(1, len(tokens) // (batch_size * context))
        self._tokens = on_device(tokens, device)
        self._seeds = list(seeds)
        self._parts = parts
        self._crops = torch.empty(
            len(seeds),
            batch_size // parts,
            context + 1,
            dtype=torch.int64,
            device=device,
        )

    def set_step(self, k: int, part: int = 0) -> None:
        """Read the crops of step k, or one part of them."""
        _, size, length = self._crops.shape
        last = len(self._tokens) - length
        starts = []
        for seed in self._seeds:
            of_batch = crop_starts(last, size * self._parts, seed, k)
            starts.append(of_batch[part * size :][:size])
        crops = read_crops(self._tokens, torch.stack(starts), length)
        self._crops.copy_(crops, non_blocking=True)  # the host does not wait for the device

    def __call__(self) -> Batch:
        # copies, as the next step writes over the crops and a batch may be kept for longer
        x = self._crops[..., :-1].clone()
        y = self._crops[..., 1:].clone()
        return x, y


Batches = ExampleBatches | CropBatches


class TrainLoader:
    """Iterates over the batches (x, y) of one seed, for Lightning or any loop of one model.

    Each `iter` goes on from the step that the last one came to, up to the end of an epoch.

    Args:
        batches: cut into `micro_batches * world_size` parts.
        micro_batches: how many batches of the loader make one step.
        rank, world_size: of the process, which gets its own part of every batch.

    Example:
        >>> from mupl.data import digits
        >>> loader = TrainLoader(digits().train_batches(64, seeds=[0]))
        >>> len(loader)
        22
        >>> x, y = next(iter(loader))
        >>> x.shape, y.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([64]))
    """

    def __init__(
        self, batches: Batches, micro_batches: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self._batches = batches
        self._micro_batches = micro_batches
        self._rank = rank
        self._world_size = world_size
        self._given = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._batches.per_epoch * self._micro_batches

    def __iter__(self) -> Iterator[Batch]:
        # A generator, so that nothing is done before the first batch is asked for: Lightning calls
        # iter() once more than it iterates, to see whether that works.
        epoch = self._given // len(self)
        end = (epoch + 1) * len(self)
        while self._given < end:
            x, y = self._made(self._given)
            self._given += 1  # a checkpoint that is saved while this batch is used goes on after it
            yield x, y

    def _made(self, index: int) -> Batch:
        step, micro = divmod(index, self._micro_batches)
        self._batches.set_step(step, micro * self._world_size + self._rank)
        x, y = self._batches()
        return x[0], y[0]

    def first(self) -> Batch:
        """The very first batch, whatever was given so far."""
        return self._made(0)

    def state_dict(self) -> dict[str, int]:
        """The batches given so far: Lightning saves them, so that a resumed run sees what is left.

        All processes have one state.
        """
        return {"step": self._given, "micro_batches": self._micro_batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from where `state` was taken.

        Raises:
            ConfigError: if batches were cut otherwise then, which Lightning counts.
        """
        before = state.get("micro_batches", 1)
        if before != self._micro_batches:
            raise ConfigError(
                f"micro_batches={self._micro_batches}: the checkpoint was saved under {before}; "
                f"say micro_batches={before} to go on"
            )
        self._given = state["step"]


class EvalLoader:
    """Iterates over fixed examples in order; the last batch may be smaller.

    Args:
        indices: (N,), what `read` takes for each example, such as its row.
        read: indices (B,) -> (x, y).
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        read: Callable[[Tensor], Batch],
    ) -> None:
        self._batches = indices.split(batch_size)
        self._read = read

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._read, self._batches)


def on_device(tokens: TokenArray, device: torch.device) -> TokenArray:
    """A tensor on the device; an array, which may be mapped from a file, stays on the host."""
    if isinstance(tokens, Tensor):
        return tokens.to(device)
    return tokens


def shared_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds of the batches of members that share them: each seed once, where that is possible.

    It is where equal seeds lie side by side, as many of each, so that G batches go evenly to S
    members; otherwise the seeds are returned as they are.

    Example:
        >>> shared_seeds([3, 3, 5, 5])
        [3, 5]
        >>> shared_seeds([3, 3, 3, 5])
        [3, 3, 3, 5]
    """
    distinct = list(dict.fromkeys(seeds))
    members_of_each = len(seeds) // len(distinct)
    evenly: list[int] = []
    for seed in distinct:
        evenly += [seed] * members_of_each
    return distinct if evenly == list(seeds) else list(seeds)
