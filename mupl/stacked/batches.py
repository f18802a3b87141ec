"""Batches for a stack: one for each of its members, or one for all members of a seed."""

from collections.abc import Iterable, Sequence

import torch

from mupl.data.batches import Batch, Batches
from mupl.data.splits import Examples
from mupl.data.text import Tokens


def stacked_batches(
    splits: Examples | Tokens,
    seeds: Sequence[int],
    batch_size: int,
    device: torch.device,
    share: bool = True,
) -> Batches:
    """The batches that each member sees alone: x (G, B, ...) and y (G, B, ...).

    Args:
        seeds: one for each member.
        share: whether members of one seed may have one batch, see `shared_seeds`. False gives each
            member its own.
    """
    if share:
        seeds = shared_seeds(seeds)
    return splits.train_batches(batch_size, seeds, device)


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


def validation_batches(
    splits: Examples | Tokens, outputs: int, device: torch.device
) -> Iterable[Batch]:
    """The validation examples, at most `outputs` classified images or predicted tokens a batch."""
    outputs_of_each = splits.context if isinstance(splits, Tokens) else 1
    return splits.val_batches(max(1, outputs // outputs_of_each), device)
