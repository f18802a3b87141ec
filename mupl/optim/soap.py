"""Which rules the tensors of SOAP follow: Adam in the eigenbasis of a gradient's sides."""

from functools import partial
from typing import Any

from mupl.parametrization.update_kinds import OptimizerRules, UpdateKind
from mupl.roles import Info, ParamInfo


def soap_rules(max_precondition_dim: int = 10000, **_: Any) -> OptimizerRules:
    """Return the rules of `pytorch_optimizer.SOAP` with these options.

    A side is preconditioned if its size is at most `max_precondition_dim`; vectors are not, and
    train as under Adam. Where both sides are, the rule is that of the side of the inputs alone:
    noise fills the other one, so that the update of an input's direction has entries lr and grows
    with fan_out all the same (measured: docs/optimizers.md). The published rule for both sides,
    without that noise, is the update kind `rotated`.

    The first step only finds the basis.

    Example:
        >>> from torch import nn
        >>> from mupl.roles import describe
        >>> infos = describe(lambda width: nn.Linear(width, 2 * width, False), 64, 16)
        >>> [str(soap_rules(size).kind_of(infos["weight"])) for size in (128, 64, 32)]
        ['rotated_in', 'rotated_in', 'adam']
    """
    return OptimizerRules(partial(_kind_of, max_precondition_dim), idle_steps=1)


def _kind_of(largest: int, info: Info) -> str:
    if not isinstance(info, ParamInfo) or len(info.shape) < 2:
        return UpdateKind.ADAM
    sides = [info.shape[:1], info.shape[1:]]
    outputs, inputs = sides if info.out_first else reversed(sides)
    if max(inputs) <= largest:
        return UpdateKind.ROTATED_IN
    return UpdateKind.ROTATED_OUT if max(outputs) <= largest else UpdateKind.ADAM
