"""Memory that one step of a stack leaves, and the next takes again."""

import ctypes
import sys

# Options of `mallopt`, in glibc's malloc.h
TRIM_THRESHOLD = -1
MMAP_THRESHOLD = -3
ARENA_MAX = -8
LARGEST_IN_HEAP = 1 << 25  # bytes, the most that every glibc takes
KEPT = 1 << 30  # bytes


def keep_freed_memory() -> None:
    """Let the process keep the memory of freed tensors; does something under glibc only.

    By itself glibc gives memory back to the system as soon as about two tensors are free at the end
    of its heap. So each step gives back its gradients and intermediate tensors, and the system has
    to clear the same pages for the next one. A step of MLPs of width 256 then takes 1.3 times as
    long (benchmarks/freed_memory.py).
    """
    mallopt(MMAP_THRESHOLD, LARGEST_IN_HEAP)
    mallopt(TRIM_THRESHOLD, KEPT)


def mallopt(option: int, value: int) -> None:
    """Set an option of malloc, under glibc; another C library is left alone."""
    if not sys.platform.startswith("linux"):
        return
    of_glibc = getattr(ctypes.CDLL(None), "mallopt", None)
    if of_glibc is not None:
        of_glibc(option, value)
