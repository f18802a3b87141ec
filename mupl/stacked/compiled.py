"""Functions compiled for a GPU, or as they are where nothing can be compiled."""

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

SHAPES = 256  # that one function is compiled for; by torch's default a sweep's ninth stack would run uncompiled


def compiled(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
    """`torch.compile(function)`; on a machine without a C compiler the function as it is, which is slower.

    dynamic: one compilation for all shapes, else one for each.
    """
    fast: Callable[..., Any] | None = torch.compile(function, dynamic=dynamic)

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal fast
        if fast is not None:
            try:
                with torch._dynamo.config.patch(recompile_limit=SHAPES):
                    return fast(*arguments, **options)
            except torch._dynamo.exc.TorchDynamoException as error:  # before anything is done
                log.warning("steps run several times slower, as they cannot be compiled: %s", error)
                fast = None
        return function(*arguments, **options)

    return call
