"""What users make of a model, each of which must be the same function.

All take the model and an input, on which some trace it.
"""

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Function = Callable[[Tensor], Any]


def copied(model: nn.Module, x: Tensor) -> Function:
    return copy.deepcopy(model)


def saved_and_loaded(value: Any, weights_only: bool) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=weights_only)


def unpickled(model: nn.Module, x: Tensor) -> Function:
    return saved_and_loaded(model, weights_only=False)


def loaded_from_a_state_dict(model: nn.Module, x: Tensor) -> Function:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for w in other.parameters():
            w.zero_()
    other.load_state_dict(saved_and_loaded(model.state_dict(), weights_only=True))
    return other


def moving_average(model: nn.Module, x: Tensor) -> Function:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    return average


def mean_of_weights(model: nn.Module, x: Tensor) -> Function:
    average = AveragedModel(model)
    for _ in range(2):
        average.update_parameters(model)
    return average


def called_with_parameters(model: nn.Module, x: Tensor) -> Function:
    values = dict(model.named_parameters())
    return lambda x: torch.func.functional_call(model, values, (x,))


def exported(model: nn.Module, x: Tensor) -> Function:
    with torch.no_grad(), warnings.catch_warnings():
        # of the list of weights that an LSTM keeps beside its parameters
        warnings.filterwarnings("ignore", r".*_flat_weights.* were assigned during export")
        return torch.export.export(model, (x,)).module()


def compiled(model: nn.Module, x: Tensor) -> Function:
    return torch.compile(model)


COPIES: list[Callable[[nn.Module, Tensor], Function]] = [
    copied,
    unpickled,
    loaded_from_a_state_dict,
    moving_average,
    mean_of_weights,
    called_with_parameters,
]
TRACED: list[Any] = [exported, pytest.param(compiled, marks=pytest.mark.slow)]
