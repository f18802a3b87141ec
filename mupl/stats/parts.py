"""Split what a layer's output has moved by into the layer's own part and the one of its input."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mupl.nn.scaled_parameters import held_scale
from mupl.roles.fans import holds_copies
from mupl.stats.outputs import main_tensor

ROUNDING = 16  # times eps: a smaller relative change is rounding errors


class OutputParts(NamedTuple):
    """The parts of the change of what a layer W x + b returns, since before training.

    `effective` is (W_t - W_0) x_t, and `propagating` is W_0 (x_t - x_0). Together with b_t - b_0
    they are the whole change (Haas et al. 2025, arXiv 2505.22491). `alignment` is

        RMS((W_t - W_0) x_t) / (RMS(W_t - W_0) RMS(x_t)),

    which goes as fan_in^1 where the change of W and the input point the same way, and as fan_in^1/2
    where they are independent (Everett et al. 2024). It is None for a layer of tokens, or with
    several matrices.
    """

    effective: Tensor
    propagating: Tensor
    alignment: Tensor | None


class Call(NamedTuple):
    """What a module was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class PartHooks:
    """Note what the owners of matrices are called with, and call them again with other weights.

    No second model is held: W_0 takes the place of W_t while one layer is called. Of a module that
    is called several times the last call counts.

    Args:
        model: the model whose modules are watched.
        names: of the modules; those without a matrix of their own are left out.
        weights: the parameters whose values before training will be known.
        member_axes: 1 if tensors have a leading member axis, else 0.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        weights: Iterable[nn.Parameter],
        member_axes: int,
    ) -> None:
        self._member_axes = member_axes
        self._wanted = False
        self._modules: dict[str, nn.Module] = {}
        self._calls: dict[str, Call] = {}
        self._handles = []
        self._weights = set(weights)
        for name in names:
            module = model.get_submodule(name)
            if self._matrices(module):
                self._modules[name] = module
                hook = partial(self._before_forward, name)
                handle = module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
                self._handles.append(handle)

    def start(self) -> None:
        """Note what modules are called with from now on."""
        self._wanted = True

    def stop(self) -> None:
        """Note no more."""
        self._wanted = False

    def remove(self) -> None:
        """Take the hooks off the modules."""
        for handle in self._handles:
            handle.remove()
        self._calls = {}

    @torch.no_grad()
    def parts(
        self,
        outputs: Mapping[str, Tensor],
        first_outputs: Mapping[str, Tensor],
        first_weights: Mapping[nn.Parameter, Tensor],
    ) -> Iterator[tuple[str, OutputParts]]:
        """Yield the parts by module name, after a forward pass on the probe batch.

        Args:
            outputs: what the modules returned in that pass, by name.
            first_outputs: what they returned for the same batch before training.
            first_weights: the values of the parameters before training.
        """
        for name, call in self._calls.items():
            module = self._modules[name]
            matrices = self._matrices(module)
            without_change = _call_with(module, call, matrices.values(), first_weights)
            own = [w for w in module.parameters(recurse=False) if w in self._weights]
            as_before = _call_with(module, call, own, first_weights)
            effective = self._change(outputs[name], without_change)
            alignment = None
            if len(matrices) == 1:
                [(leaf, w)] = matrices.items()
                mult, _ = held_scale(module, leaf)
                change = mult * (w - first_weights[w])
                alignment = self._alignment(effective, change, call)
            propagating = self._change(as_before, first_outputs[name])
            yield name, OutputParts(effective, propagating, alignment)

    @torch.no_grad()
    def actions(
        self, weights_before: Mapping[nn.Parameter, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (W_(t+1) - W_t) x_t by module name, after an update.

        Args:
            weights_before: the values of the parameters before the update.
        """
        calls = self._calls
        self._calls = {}
        for name, call in calls.items():
            module = self._modules[name]
            matrices = self._matrices(module).values()
            after = _call_with(module, call, [], {})
            yield name, self._change(after, _call_with(module, call, matrices, weights_before))

    def _before_forward(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._wanted:
            # copies, as the next layers may work in place
            copies = [x.clone() if isinstance(x, Tensor) else x for x in args]
            self._calls[name] = Call(tuple(copies), kwargs)

    def _matrices(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The matrices that a module owns, by their names in it."""
        found = {}
        for leaf, w in module.named_parameters(recurse=False):
            shape = w.shape[self._member_axes :]
            batch_dims = int(holds_copies(shape, module, self._member_axes))
            if w in self._weights and len(shape) - batch_dims >= 2:
                found[leaf] = w
        return found

    def _alignment(self, effective: Tensor, change: Tensor, call: Call) -> Tensor | None:
        x = next(iter(call.args), None)
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return None
        of_change = self._rms(change)
        of_input = self._rms(x)
        if self._member_axes:  # members may share their inputs
            of_input = of_input.repeat_interleave(len(of_change) // len(of_input))
        product = of_change * of_input
        return self._rms(effective) / product.clamp_min(torch.finfo(product.dtype).tiny)

    def _change(self, after: Tensor, before: Tensor) -> Tensor:
        """The difference; 0 where it is nothing but rounding errors."""
        change = after - before
        limit = ROUNDING * torch.finfo(change.dtype).eps * self._rms(before)
        is_rounding = self._rms(change) <= limit
        ones = [1] * (change.dim() - is_rounding.dim())
        return change.masked_fill(is_rounding.view(*is_rounding.shape, *ones), 0)

    def _rms(self, x: Tensor) -> Tensor:
        """The RMS of a tensor; of a stack the one of each member (S,)."""
        entries = x.flatten(self._member_axes)
        return torch.linalg.vector_norm(entries, dim=-1) / math.sqrt(entries.shape[-1])


def _call_with(
    module: nn.Module,
    call: Call,
    replaced: Iterable[nn.Parameter],
    values: Mapping[nn.Parameter, Tensor],
) -> Tensor:
    """What a module returns with other values of some of its parameters."""
    with _values_of(replaced, values):
        output = main_tensor(module(*call.args, **call.kwargs))
    assert output is not None  # the hooks of outputs have refused a module that returns no tensor
    return output


@contextmanager
def _values_of(
    replaced: Iterable[nn.Parameter], values: Mapping[nn.Parameter, Tensor]
) -> Iterator[None]:
    """Give parameters other values for a while."""
    current = {w: w.data for w in replaced}
    try:
        for w in current:
            w.data = values[w]
        yield
    finally:
        for w, own in current.items():
            w.data = own
