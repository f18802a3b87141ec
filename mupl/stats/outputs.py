"""Collect what the modules of a model return in a forward pass, and the gradients of it."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mupl.errors import ConfigError


class OutputHooks:
    """Collect what chosen modules return, and its gradients, between `start` and `stop`.

    Of a module that is called several times the last call counts. A module that returns several
    values, such as (activations, state), a dict or an output of transformers, counts with what
    `main_tensor` chooses.

    Args:
        model: the model whose modules are watched.
        names: of the modules.

    Raises:
        ConfigError: in a forward pass, if a module returns no tensor.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._model = model
        self._outputs: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._wants_outputs = False
        self._wants_gradients = False
        self._handles = []
        for name in names:
            module = model.get_submodule(name)
            self._handles.append(module.register_forward_hook(partial(self._after_forward, name)))

    def start(self, outputs: bool = True, gradients: bool = False) -> None:
        """Collect from now on."""
        self._wants_outputs = outputs
        self._wants_gradients = gradients

    def stop(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Collect no more, and hand over the outputs and the gradients, each by module name."""
        self._wants_outputs = False
        self._wants_gradients = False
        collected = self._outputs, self._gradients
        self._outputs = {}
        self._gradients = {}
        return collected

    @torch.no_grad()
    def of_probe(self, batch: Any) -> dict[str, Tensor]:
        """The outputs for a batch in eval mode; afterwards each module is in its own mode again.

        A batch may be a function that calls the model.
        """
        in_training = [module for module in self._model.modules() if module.training]
        self._model.eval()
        self.start()
        if callable(batch):
            batch(self._model)
        else:
            self._model(batch)
        outputs, _ = self.stop()
        for module in in_training:
            module.training = True
        return outputs

    def remove(self) -> None:
        """Take the hooks off the modules."""
        for handle in self._handles:
            handle.remove()
        self.stop()

    def _after_forward(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not (self._wants_outputs or self._wants_gradients):
            return
        tensor = main_tensor(output)
        if tensor is None:
            if not name:  # the model: what it returns is the business of its own loop
                return
            kind = type(output).__name__
            raise ConfigError(f"recorder.modules: {name!r} returns a {kind}, not a tensor")
        output = tensor
        if self._wants_outputs:
            self._outputs[name] = output.detach().clone()  # the next layer may work in place
        if self._wants_gradients and output.requires_grad:
            self._gradients.pop(name, None)  # of an earlier backward pass of the same step
            output.register_hook(partial(self._after_backward, name))

    def _after_backward(self, name: str, gradient: Tensor) -> None:
        # a backward pass meets the last of several calls first
        self._gradients.setdefault(name, gradient.detach().clone())


def main_tensor(output: Any) -> Tensor | None:
    """Choose the tensor that counts of what a module returns; None if there is none.

    It is the entry `logits` of a mapping, as the outputs of transformers are, and else the first
    entry that is no single number, such as the logits of (loss, logits).

    >>> main_tensor({"loss": torch.tensor(2.0), "logits": torch.ones(2)})
    tensor([1., 1.])
    >>> main_tensor((torch.tensor(2.0), (torch.zeros(3), "state")))
    tensor([0., 0., 0.])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        if "logits" in output:
            return main_tensor(output["logits"])
        output = list(output.values())
    if not isinstance(output, tuple | list):
        return None
    for entry in output:
        tensor = main_tensor(entry)
        if tensor is not None and tensor.dim() > 0:
            return tensor
    return None
