"""Memory that one step of a stack leaves, and the next takes again."""

import ctypes
import sys

# Of `mallopt` in glibc's malloc.h
TRIM_THRESHOLD = -1
MMAP_THRESHOLD = -3
LARGEST_IN_HEAP = 1 << 25  # bytes, the most that every glibc takes
KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Let the process keep the memory of freed tensors; does something under glibc only.

    By itself glibc gives memory back to the system as soon as about two tensors are free at the end
    of its heap. So each step gives back its gradients and intermediate tensors, and the system has
    to clear the same pages for the next one. Steps of MLPs then take 1.3 to 1.5 times as long
    (benchmarks/freed_memory.py).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST_IN_HEAP)
        mallopt(TRIM_THRESHOLD, KEPT)
