"""Functions compiled for a GPU where they can be, and steps captured as CUDA graphs."""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

# Shapes that one function is compiled for; by torch's default a sweep's ninth stack would run
# uncompiled
MAX_SHAPES = 256
EAGER_STEPS = 3  # before a CUDA graph is captured: libraries and compiled kernels have to be loaded


def compiled(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
    """Compile a function by `torch.compile`.

    On a machine without a C compiler it stays as it is, which is slower.

    Args:
        dynamic: one compilation for all shapes, else one for each.
    """
    fast: Callable[..., Any] | None = torch.compile(function, dynamic=dynamic)

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal fast
        if fast is not None:
            try:
                with torch._dynamo.config.patch(recompile_limit=MAX_SHAPES):
                    return fast(*arguments, **options)
            except torch._dynamo.exc.TorchDynamoException as error:  # before anything is done
                log.warning("steps run several times slower, as they cannot be compiled: %s", error)
                fast = None
        return function(*arguments, **options)

    return call


class CapturedStep:
    """Runs a training step as it is a few times, then captures it as a CUDA graph and replays that.

    Attributes:
        graph: None until the step is captured.
    """

    def __init__(self) -> None:
        self.graph: torch.cuda.CUDAGraph | None = None
        self._eager_steps = 0

    def __call__(self, step: Callable[[], object]) -> None:
        if self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            step()
            return
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, and does nothing
                step()
        self.graph.replay()
