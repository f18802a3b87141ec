"""Losses, and what a loss must not do with the shapes that it gets."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mupl.errors import ConfigError

Loss = Callable[[Any, Tensor], Tensor]

FOR_NUMBERS = "for numbers say loss=torch.nn.functional.mse_loss"
# How torch's losses warn of a target that is broadcast to the output; they train on, wrongly
BROADCAST = "Using a target size"


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits (..., C) against class indices (...).

    Raises:
        ConfigError: if the target is no class for each row of logits, or there is one class only.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))  # log(4)
        tensor(1.3863)
    """
    check_classes(logits, target)
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def check_classes(logits: Tensor, target: Tensor) -> None:
    """Raise ConfigError if target (...) does not hold a class for each row of logits (..., C)."""
    shapes = described(logits, target)
    if logits.ndim < 2 or logits.shape[-1] == 1:
        raise ConfigError(_too_few_classes(shapes))
    if target.is_floating_point():
        raise ConfigError(f"loss: a cross-entropy takes classes, not {shapes}; {FOR_NUMBERS}")
    if logits.shape[:-1] != target.shape:
        raise ConfigError(
            f"loss: a cross-entropy takes outputs (B, C) and classes (B,), not {shapes}"
        )


def _too_few_classes(shapes: str) -> str:
    return (
        "loss: a cross-entropy takes an output for each of two or more classes (of one class it is "
        f"always 0), not {shapes}; {FOR_NUMBERS}"
    )


class CheckedLoss:
    """A loss that says, the first time it sees a pair of shapes, that it does not fit them.

    Else an output (B, 1) beside a target (B,) would train without an error: torch broadcasts both
    to (B, B), compares every output with every target, and the model learns the mean.

    Args:
        function: `(output, target) -> scalar`.

    Raises:
        ConfigError: if it does not take the model's output and the target, broadcasts one to the
            other, or returns no scalar.

    Example:
        >>> loss = CheckedLoss(F.mse_loss)
        >>> loss(torch.zeros(3, 1), torch.ones(3, 1))
        tensor(1.)
        >>> loss(torch.zeros(3, 1), torch.ones(3))
        Traceback (most recent call last):
        mupl.errors.ConfigError: loss: does not fit the model's output (3, 1) float32 and the \
target (3,) float32: it broadcasts them, so that outputs are compared with targets of others; give \
both one shape: targets (B, 1) by y[:, None], or outputs (B,) by squeeze(-1)
    """

    def __init__(self, function: Loss) -> None:
        if not callable(function):
            raise ConfigError(
                f"loss={function}: must be a function (output, target) -> mean loss, such as "
                "torch.nn.functional.mse_loss"
            )
        self.function = function
        self._fitting: set[tuple[Any, Any]] = set()

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        pair = (getattr(output, "shape", None), getattr(target, "shape", None))
        if pair in self._fitting:
            return self.function(output, target)
        value = self._checked(output, target)
        self._fitting.add(pair)
        return value

    def _checked(self, output: Any, target: Tensor) -> Tensor:
        shapes = described(output, target)
        try:
            with warnings.catch_warnings(), _NoBroadcast(output, target):
                warnings.filterwarnings("error", message=BROADCAST)
                value = self.function(output, target)
        except (ConfigError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if str(error).startswith(BROADCAST):
                raise ConfigError(_broadcast(output, target)) from error
            reason = " ".join(str(error).split())
            raise ConfigError(f"loss: does not fit {shapes} ({reason})") from error
        if not isinstance(value, Tensor) or value.ndim:
            raise ConfigError(f"loss: must return a scalar, not {_shape(value)}, for {shapes}")
        return value


class _NoBroadcast(TorchFunctionMode):
    """Refuses what a loss does wrongly with output and target although torch does not say so.

    That is an operation on both that broadcasts them to a third shape, and a cross-entropy of one
    class.
    """

    def __init__(self, output: Any, target: Tensor) -> None:
        super().__init__()
        self._output = output
        self._target = target
        shapes = [getattr(value, "shape", None) for value in (output, target)]
        self._pair = set(shapes)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        values = (*args, *kwargs.values())
        tensors = [value for value in values if isinstance(value, Tensor)]
        found = {tensor.shape for tensor in tensors[:2]}
        if len(found) == 2 and found == self._pair and _third_shape(*found):
            raise ConfigError(_broadcast(self._output, self._target))
        if func is F.cross_entropy:
            logits = tensors[0]
            if logits.ndim < 2 or logits.shape[1] == 1:
                raise ConfigError(_too_few_classes(described(self._output, self._target)))
        return func(*args, **kwargs)


def _third_shape(one: torch.Size, other: torch.Size) -> bool:
    """Return whether two shapes are broadcast to one that is neither, as (B, 1) and (B,) are."""
    try:
        # not torch.broadcast_shapes, which imports sympy: as long as half of torch takes
        return np.broadcast_shapes(one, other) not in (one, other)
    except ValueError:  # they do not fit, which torch says
        return False


def _broadcast(output: Any, target: Tensor) -> str:
    remedy = "give both one shape: targets (B, 1) by y[:, None], or outputs (B,) by squeeze(-1)"
    if not target.is_floating_point():
        remedy = "for classes say loss=mupl.training.setup.cross_entropy"
    return (
        f"loss: does not fit {described(output, target)}: it broadcasts them, so that outputs are "
        f"compared with targets of others; {remedy}"
    )


def described(output: Any, target: Any) -> str:
    """Name output and target by shape and dtype, for a message.

    Example:
        >>> described(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
        "the model's output (2, 3) float32 and the target (2,) int64"
    """
    return f"the model's output {_shape(output)} and the target {_shape(target)}"


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
