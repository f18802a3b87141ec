"""Dropout whose masks follow from a seed, so that a run draws the same alone and in a stack."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SMALLEST = -(2**31)  # of int32, the type of random bits
# Odd multipliers and shifts of a hash of 32 bits that changes half of the output's bits with any
# bit of the input ("lowbias32" of Chris Wellons, hash-prospector)
FIRST_MULTIPLIER = 0x7FEB352D
SECOND_MULTIPLIER = 0x846CA68B - 2**32


class Dropout(nn.Dropout):
    """`nn.Dropout`, with masks that are a function of a seed, the layer and the number of the call.

    torch draws the masks of all layers from one generator per device. There a mask depends on all
    that was drawn before it, so that a run cannot be resumed without that generator's state, and
    the members of a stack cannot draw what each draws alone. Here a mask is a hash of where an
    entry is (Salmon et al. 2011, counter-based generators), and the number of the call is saved
    with the model. In a stack of S members x is (S, ...), and each member has a stream of its own.

    A forward pass that is made twice, as by activation checkpointing, counts twice and draws
    another mask.

    Args:
        p: probability with which an entry becomes 0; the others are divided by 1 - p.

    Attributes:
        stream: (2,), or (S, 2), int32: what the seed and the layer are hashed to.
        calls: (), or (S,), int32: forward passes made in training.

    Example:
        >>> layers = [Dropout(0.5), Dropout(0.5)]
        >>> for layer in layers:
        ...     seed_dropout(layer, seed=3)
        >>> x = torch.ones(100)
        >>> first = layers[0](x)
        >>> torch.equal(first, layers[1](x)), torch.equal(first, layers[1](x))
        (True, False)
    """

    stream: Tensor
    calls: Tensor

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)
        if p > 0:  # a model without dropout has nothing to save
            self.register_buffer("stream", _streams([torch.initial_seed()], 0)[0])
            self.register_buffer("calls", torch.zeros((), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return 0 * x
        members = self.calls.numel()
        if self.calls.dim() == 1 and len(x) < members:  # in a stack, members that share a batch
            x = x.repeat_interleave(members // len(x), 0)
        return x * self._draw(x.numel() // members).view(x.shape) / (1 - self.p)

    def _draw(self, entries: int) -> Tensor:
        """(entries,) or (S, entries), bool: which entries are kept in this call."""
        key = torch.ops.mupl.dropout_key(self.stream, self.calls)
        self.calls.add_(1)
        places = torch.arange(entries, device=key.device, dtype=torch.int32)
        return random_bits(places, key) >= SMALLEST + round(self.p * 2**32)


def random_bits(counters: Tensor, key: Tensor) -> Tensor:
    """Hash int32 counters (..., n) under keys (..., 2) of 64 bits to random int32 (..., n).

    Two rounds of multiplication and shift, half of the key before each; sums and products wrap.
    """
    first = key[..., :1]
    second = key[..., 1:]
    x = counters ^ first
    x = _fold(x, 16) * FIRST_MULTIPLIER
    x = _fold(x, 15) ^ second
    x = x * SECOND_MULTIPLIER
    return _fold(x, 16)


def _fold(x: Tensor, shift: int) -> Tensor:
    """Return `x ^ (x >> shift)` of the bits of int32, whose own shift repeats the sign."""
    lower_bits = 2 ** (32 - shift) - 1
    return x ^ ((x >> shift) & lower_bits)


# An operator of its own, which torch.compile does not look into: it would compute the key once more
# for the backward pass, when the number of calls is another one already.
torch.library.define("mupl::dropout_key", "(Tensor stream, Tensor calls) -> Tensor")


@torch.library.impl("mupl::dropout_key", "default")
def _key(stream: Tensor, calls: Tensor) -> Tensor:
    """The key of a call, 64 bits for each stream: (2,) or (S, 2), int32."""
    words = 2 * calls[..., None] + torch.arange(2, device=calls.device, dtype=torch.int32)
    return random_bits(words, stream)


@torch.library.register_fake("mupl::dropout_key")
def _key_without_values(stream: Tensor, calls: Tensor) -> Tensor:
    return torch.empty_like(stream)


@torch.library.register_vmap("mupl::dropout_key")
def _keys(info: Any, in_dims: Sequence[int], stream: Tensor, calls: Tensor) -> tuple[Tensor, int]:
    # a stack maps both over its members, which come first; the operator takes them as they are
    return torch.ops.mupl.dropout_key(stream.movedim(in_dims[0], 0), calls), 0


def dropout_layers(model: nn.Module) -> dict[str, Dropout]:
    """Return the layers that draw masks, by path."""
    layers = {}
    for path, module in model.named_modules():
        if isinstance(module, Dropout) and module.p > 0:
            layers[path] = module
    return layers


def seed_dropout(model: nn.Module, seed: int | Sequence[int]) -> None:
    """Begin the streams of all `Dropout` layers of a model anew.

    Args:
        seed: of the model, or one for each member of a stack.
    """
    layers = dropout_layers(model).values()
    for index, layer in enumerate(layers):
        device = layer.calls.device
        if isinstance(seed, int):
            [stream] = _streams([seed], index)
        else:
            stream = _streams(seed, index)
        layer.stream = stream.to(device)
        layer.calls = torch.zeros(stream.shape[:-1], dtype=torch.int32, device=device)


def _streams(seeds: Sequence[int], layer: int) -> Tensor:
    """(S, 2), int32: 64 bits for each seed, others for each layer."""
    rows = []
    for seed in seeds:
        words = np.random.SeedSequence((seed, layer)).generate_state(2, np.uint32)
        rows.append(words.view(np.int32).tolist())
    return torch.tensor(rows, dtype=torch.int32)
