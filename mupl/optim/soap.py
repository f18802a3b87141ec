"""Which rules the tensors of SOAP follow: Adam in the eigenbasis of a gradient's sides."""

from functools import partial
from typing import Any

from mupl.parametrization.cells import Monomial
from mupl.parametrization.update_kinds import ROTATIONS, OptimizerRules, UpdateKind
from mupl.roles import Info, ParamInfo, Role

SETTLED = 64  # updates


def soap_rules(
    max_precondition_dim: int = 10000, precondition_frequency: int = 10, **_: Any
) -> OptimizerRules:
    """Return the rules of `pytorch_optimizer.SOAP` with these options.

    A side is preconditioned if its size is at most `max_precondition_dim`; vectors are not, and
    train as under Adam. The kinds of `ROTATIONS` are published for gradients of a few directions
    (Qiu et al. 2025). Noise fills the other directions with entries of size lr too, which change
    activations by lr * fan_in^1/2 whatever is preconditioned. That is more than the few directions
    do where both sides are, and where the outputs' side of an input layer is. There the rule is the
    one of `rotated_in`, lr ~ m_in^-1/2 (measured: docs/optimizers.md).

    The first step only finds the basis. The next ones, in the basis of one gradient, move
    activations as Adam's would. They do so no longer once the basis has been found again six times,
    and after `SETTLED` updates at least (measured: docs/coordinate_checks.md).

    Example:
        >>> from torch import nn
        >>> from mupl.roles import describe
        >>> infos = describe(lambda width: nn.Linear(2 * width, width, False), 64, 16)
        >>> [str(soap_rules(size).kind_of(infos["weight"])) for size in (128, 64, 32)]
        ['rotated_in', 'rotated_out', 'adam']
    """
    return OptimizerRules(
        partial(_kind_of, max_precondition_dim),
        rotations=partial(_rotation_of, max_precondition_dim),
        idle_steps=1,
        settled=max(SETTLED, 6 * precondition_frequency),
    )


def _rotation_of(largest: int, info: Info) -> Monomial:
    """Return what is rotated.

    Of an input layer it is the outputs' side too, which its rule leaves out.
    """
    kind = _kind_of(largest, info)
    if isinstance(info, ParamInfo) and info.role is Role.INPUT and len(info.copy_shape) > 1:
        outputs, _ = sides(info)
        kind = UpdateKind.ROTATED_OUT if max(outputs) <= largest else kind
    return ROTATIONS.get(kind, Monomial())


def sides(info: ParamInfo) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sizes of the outputs' side and of the inputs' side of a matrix."""
    first = info.copy_shape[:1]
    rest = info.copy_shape[1:]
    return (first, rest) if info.out_first else (rest, first)


def _kind_of(largest: int, info: Info) -> str:
    if not isinstance(info, ParamInfo) or len(info.copy_shape) < 2:
        return UpdateKind.ADAM
    outputs, inputs = sides(info)
    if max(inputs) <= largest:
        return UpdateKind.ROTATED_IN
    if max(outputs) <= largest and info.role is not Role.INPUT:
        return UpdateKind.ROTATED_OUT
    return UpdateKind.ADAM  # as rotated_in, where fan_in does not grow
