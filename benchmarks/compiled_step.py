"""A compiled training step of a language model, for the benchmarks of large models."""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timing import Step, Times
from torch import Tensor, nn

from mupl.training.setup import cross_entropy

PEAK = 989e12  # FLOP/s of products of bfloat16 of a Hopper GPU, without sparsity


def training_step(
    model: nn.Module,
    groups: Iterable[Any],
    crops: Tensor,
    logits: Callable[[Any], Tensor] = lambda output: output,
) -> Step:
    """Return a step: compiled without a graph break, bfloat16 by autocast, fused AdamW.

    Args:
        groups: param groups, or parameters.
        crops: tokens (batch, context + 1), the same at each step.
        logits: makes logits of what the model returns.
    """
    device = crops.device.type
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)

    # not dynamic: a multiplier that another contestant has not would be taken for a variable
    @torch.compile(fullgraph=True, dynamic=False)
    def loss_of(x: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return cross_entropy(logits(model(x)), target)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(crops[:, :-1], crops[:, 1:]).backward()
        optimizer.step()

    return step


def print_throughput(times: Times, label: str, tokens: int, flops: int, device: str) -> None:
    """Print tokens a second and, on a GPU, the model FLOPs utilisation of each contestant."""
    for name, values in times.items():
        seconds = statistics.median(values)
        line = f"{label}: {name}: {tokens / seconds:,.0f} tokens/s"
        if device == "cuda":
            line += f", MFU {flops / seconds / PEAK:.3f}"
        print(line, flush=True)
