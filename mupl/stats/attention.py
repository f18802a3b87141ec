"""Collect the attention logits of any model, which fused attention never shows."""

import functools
import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.roles.fans import network_counts

SEQUENCES = 4  # of a batch, of which logits are computed: they are as many as tokens squared
MASKED = -1e4  # what a mask adds is below


class AttentionHooks:
    """Collect attention logits, the scaled products q.k, between `start` and `stop`.

    Meanwhile torch's softmax and `scaled_dot_product_attention` note what they are called with, and
    the innermost module that is in its forward pass then. So `nn.MultiheadAttention` is seen, the
    attention of transformers (sdpa and eager) and of timm, and what is written with these functions
    of torch; a kernel of another library or a compiled model is not. Of several calls in a module
    the last counts. Masked logits are left out, and the logits of a router between experts
    (`mupl.roles.fans.network_counts`).

    Args:
        model: the model whose modules are watched.

    >>> layer = nn.MultiheadAttention(8, num_heads=2)
    >>> hooks = AttentionHooks(layer)
    >>> hooks.start()
    >>> _ = layer(*[torch.ones(3, 1, 8)] * 3)
    >>> {name: logits.shape for name, logits in hooks.stop().items()}
    {'': torch.Size([18])}
    """

    def __init__(self, model: nn.Module) -> None:
        self._running: list[str] = []  # the modules in their forward pass, innermost last
        self._experts: dict[str, set[int]] = {}  # numbers of them in a module
        self._logits: dict[str, Tensor] = {}
        self._patches = ExitStack()
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            self._experts[name] = network_counts(module)
            enter = partial(self._enter, name)
            self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def start(self) -> None:
        """Collect from now on."""
        self._running = []
        watched: list[tuple[Any, str, Callable[..., Tensor | None]]] = [
            (F, "scaled_dot_product_attention", scaled_products),
            (F, "softmax", _unmasked_input),
            (torch, "softmax", _unmasked_input),
            (torch.Tensor, "softmax", _unmasked_input),
        ]
        for place, name, logits_of in watched:
            noting = self._noting(getattr(place, name), logits_of)
            self._patches.enter_context(mock.patch.object(place, name, noting))

    def stop(self) -> dict[str, Tensor]:
        """Collect no more, and hand over the logits by module name."""
        self._patches.close()
        collected = self._logits
        self._logits = {}
        return collected

    def remove(self) -> None:
        """Take the hooks off the modules."""
        for handle in self._handles:
            handle.remove()
        self.stop()

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self._running.append(name)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._running:
            self._running.pop()

    def _noting(
        self, function: Callable[..., Tensor], logits_of: Callable[..., Tensor | None]
    ) -> Callable[..., Tensor]:
        """Make a function note the logits that it is called with."""

        @functools.wraps(function)
        def noting(*args: Any, **options: Any) -> Tensor:
            if self._running:
                name = self._running[-1]
                with torch.no_grad():
                    logits = logits_of(*args, **options)
                of_softmax = logits_of is _unmasked_input and bool(args)
                routes = of_softmax and args[0].shape[-1] in self._experts[name]
                if logits is not None and not routes:
                    self._logits[name] = logits
            return function(*args, **options)

        return noting


def scaled_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return the logits, (n,), that `scaled_dot_product_attention` takes the softmax of.

    >>> q = torch.ones(1, 1, 3, 4)
    >>> scaled_products(q, q, q, is_causal=True)
    tensor([2., 2., 2., 2., 2., 2.])
    """
    q = query[:SEQUENCES]
    k = key[:SEQUENCES]
    if enable_gqa:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], dim=-3)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    logits = factor * (q @ k.mT)
    if attn_mask is not None:
        mask = attn_mask[:SEQUENCES] if attn_mask.dim() == query.dim() else attn_mask
        if mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, -torch.inf)
        else:
            logits = logits + mask
    if is_causal:
        past = torch.ones_like(logits, dtype=torch.bool).tril()
        logits = logits.masked_fill(~past, -torch.inf)
    return logits[logits > MASKED]


def _unmasked_input(x: Tensor, *args: Any, **options: Any) -> Tensor | None:
    """Return what a softmax over tokens is taken of, (n,); None for one of a vector or a matrix."""
    if x.dim() < 3:
        return None
    x = x[:SEQUENCES].detach()
    return x[x > MASKED]


def unseen(model: nn.Module, seen: Iterable[str]) -> list[str]:
    """Name the modules that are attention by the name of their class, and showed no logits.

    >>> unseen(nn.TransformerEncoderLayer(8, nhead=2), seen=[])
    ['self_attn']
    """
    found = []
    seen = list(seen)
    for name, module in model.named_modules():
        is_attention = type(module).__name__.endswith("Attention")
        if is_attention and not any(f"{other}.".startswith(f"{name}.") for other in seen):
            found.append(name)
    return found
