"""Where the time of a step goes: the kernels of a GPU, or the operations of a CPU."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

# Words in the names of kernels, of which the first that is found counts
GROUPS = {
    "loss": ("softmax", "nll", "softMax"),
    "attention": ("sdpa", "flash", "fmha", "flex", "attention", "dot_do_o", "dq_to_16"),
    "attention, Triton": ("_forward", "_backward_queries", "_backward_keys"),
    "optimizer": ("lerp", "addcmul", "indexSelect", "index_select"),
    "norm": ("layer_norm", "GammaBeta", "rsqrt"),
    "gelu": ("gelu", "erf"),
    "embedding": ("embedding", "gather_kernel", "radix", "compute_grad_weight", "index_put"),
    "products": ("nvjet", "gemm", "cutlass", "bmm", "cublas", "xmma", "_mm"),
    "rotary": ("flip", "neg_slice", "split_sub", "cat"),
    "copies and casts": ("copy", "clone", "Memcpy", "Memset", "transpose"),
}


class Kernel(NamedTuple):
    """What one kernel takes of a step: ms, and how often it runs."""

    name: str
    milliseconds: float
    count: int


def kernels_of(step: Callable[[], object], steps: int = 3) -> list[Kernel]:
    """Profile some steps, and return their kernels by time, the longest first."""
    on_gpu = torch.cuda.is_available()
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    step()
    with profile(activities=[activity]) as profiler:
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    kernels = []
    for event in profiler.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if spent > 0:
            kernels.append(Kernel(event.key, spent / 1e3 / steps, event.count // steps))
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)


def in_groups(kernels: list[Kernel]) -> dict[str, float]:
    """Milliseconds of each of the `GROUPS`, and of "other", the longest first."""
    groups: dict[str, float] = defaultdict(float)
    for kernel in kernels:
        groups[_group_of(kernel.name)] += kernel.milliseconds
    return dict(sorted(groups.items(), key=lambda item: -item[1]))


def _group_of(name: str) -> str:
    for group, words in GROUPS.items():
        if any(word in name for word in words):
            return group
    return "other"


def as_text(title: str, kernels: list[Kernel], lines: int = 40) -> str:
    """Both as a table."""
    total = sum(kernel.milliseconds for kernel in kernels)
    text = [f"{title}: {total:.3f} ms a step"]
    for group, spent in in_groups(kernels).items():
        text.append(f"{spent:8.3f} ms {spent / total:6.1%} {group}")
    text.append("")
    for kernel in kernels[:lines]:
        text.append(f"{kernel.milliseconds:8.3f} ms {kernel.count:4d} x {kernel.name[:110]}")
    return "\n".join(text)
