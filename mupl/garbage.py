"""When Python should not look for garbage: at start-up and at the end, where that takes a tenth of a short sweep."""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage() -> Iterator[None]:
    """For what makes hundreds of thousands of objects that stay, such as imports and configs."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@atexit.register
def _leave_to_the_system() -> None:
    """When the process ends, look for none among all that it has imported."""
    if (
        "triton" not in sys.modules
    ):  # whose bindings (nanobind) would name everything that is left as a leak
        gc.freeze()
