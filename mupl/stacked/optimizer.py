"""The optimizer of a stack of members, each with its own hyperparameters.

It updates effective weights, so that the model needs no multipliers and a parametrization is
nothing but scalars for each tensor and member; see `mupl.stacked.rules`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mupl.optim.schedules import Schedule
from mupl.parametrization.scales import Scale
from mupl.stacked.compiled import compiled
from mupl.stacked.rules import StackedRule, Tensors, stackable


class StackedOptimizer:
    """Updates stacked effective weights.

    Args:
        weights: by name, (S, *shape).
        scales: of each member, by name of the weight.
        optimizers: each member's constructor, or partial of one; all of the same class.
        schedules: each member's.
        clip: norm to which each member's gradient is clipped, or None.
        max_steps: number of updates for which the scalars that depend on the step are computed.

    Raises:
        NotStackable: if it does not know the optimizer, or members need different rules for one
            tensor.

    Attributes:
        state: by its name and then the weight's, (S, *shape) or (S, n, n).
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        scales: Sequence[Mapping[str, Scale]],
        optimizers: Sequence[Callable[..., Optimizer]],
        schedules: Sequence[Schedule],
        clip: Sequence[float | None],
        max_steps: int,
    ) -> None:
        known, _ = stackable(optimizers[0])
        options = [stackable(optimizer)[1] for optimizer in optimizers]
        self._options = options[0]  # read for those in which all members agree
        self._slots: dict[str, _Slot] = {}
        self.state: dict[str, dict[str, Tensor]] = {}
        tables: dict[StackedRule, StepTable] = {}
        for name, weight in weights.items():
            of_members = [member[name] for member in scales]
            rule = known.rule(name, of_members)
            if rule not in tables:
                tables[rule] = step_table(rule, options, schedules, max_steps, like=weight)
            batch_dims = of_members[0].batch_dims if rule.by_copy else 0
            state = _initial_state(rule, weight, self._options, batch_dims)
            for key, tensor in state.items():
                self.state.setdefault(key, {})[name] = tensor
            self._slots[name] = _slot(rule, tables[rule], weight, state, of_members, batch_dims)
        any_weight = next(iter(weights.values()))
        self._clip: Tensor | None = None
        if any(norm is not None for norm in clip):
            norms = [math.inf if norm is None else norm for norm in clip]
            self._clip = any_weight.new_tensor(norms)
        self._c: dict[str, Tensor] = {}  # see `mupl.stacked.rules`
        for name in weights:
            values = [member[name].mult * member[name].grad for member in scales]
            self._c[name] = any_weight.new_tensor(values)

    def capturable(self, k: int) -> bool:
        """Whether a CUDA graph can hold update k, and all other updates for which this is true."""
        return not any(slot.rule.needs_host(self._options, k) for slot in self._slots.values())

    def step(
        self,
        gradients: Mapping[str, Tensor],
        k: Tensor,
        k_on_host: int,
    ) -> None:
        """Make update number k.

        Args:
            gradients: of the effective weights, (S, *shape).
            k: a tensor (1,) on the device, which a captured graph reads anew at every replay.
            k_on_host: the same number; in a captured graph it stays as it was at the capture.
        """
        clip = self._clip_factor(gradients)
        for name, slot in self._slots.items():
            shape = _scalar_shape(slot.weight)
            gradient = gradients[name].reshape(slot.weight.shape)
            if clip is not None:
                gradient = gradient * slot.repeated(clip).view(shape)
            update = slot.rule.update
            if slot.weight.is_cuda and slot.rule.layout == "entries":
                update = _compiled(update)
            row = slot.repeated(slot.table.at(k))
            step = dict(zip(slot.table.names, row.view(-1, *shape), strict=True))
            arguments = slot.rule.host_arguments(self._options, k_on_host)
            update(slot.weight, gradient, slot.state, slot.scalars, step, **arguments)

    def _clip_factor(self, gradients: Mapping[str, Tensor]) -> Tensor | None:
        """(S,): what to multiply each member's gradients by, or None.

        The norm of all gradients of a member, as its own optimizer would see them, is then at most
        `clip`.
        """
        if self._clip is None:
            return None
        norms = []
        for name, gradient in gradients.items():
            norm = torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1)
            norms.append(norm * self._c[name])
        norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return (self._clip / (norm + 1e-6)).clamp(max=1)  # 1e-6 as torch.nn.utils.clip_grad_norm_

    @torch.no_grad()
    def freeze(self, diverged: Tensor) -> None:
        """Stop members for good: their weights, state and learning rate become 0.

        Args:
            diverged: (S,) bool, which members.
        """
        for slot in self._slots.values():
            stopped = slot.repeated(diverged)
            for tensor in (slot.weight, *slot.state.values(), slot.scalars["lr"]):
                tensor[stopped] = 0

    def decay_rates(self, k: int) -> dict[str, Tensor]:
        """lr * weight_decay (S,) at update k, of the weights whose weight decay is decoupled."""
        rates = {}
        for name, slot in self._slots.items():
            if "decay" in slot.scalars:
                schedule = slot.table.column("schedule")[k]
                rates[name] = slot.scalars["decay"].flatten()[:: slot.copies] * schedule
        return rates


@dataclass(frozen=True)
class StepTable:
    """The scalars of a rule that depend on the number of the update.

    Args:
        names: of the scalars, N of them.
        values: (max_steps, N, S).
    """

    names: tuple[str, ...]
    values: Tensor

    def at(self, k: Tensor) -> Tensor:
        """The scalars (N, S) of update k, a tensor (1,)."""
        return self.values.index_select(0, k)[0]

    def column(self, name: str) -> Tensor:
        """One scalar at all steps, (max_steps, S)."""
        return self.values[:, self.names.index(name)]


def step_table(
    rule: StackedRule,
    options: Sequence[Mapping[str, Any]],
    schedules: Sequence[Schedule],
    max_steps: int,
    like: Tensor,
) -> StepTable:
    """Compute the table of a rule, on the device and in the dtype of `like`.

    It is computed in float64, and once for all members that have options and schedule in common, as
    most do.
    """
    distinct: list[tuple[Mapping[str, Any], Schedule]] = []
    index_of_member = []
    for pair in zip(options, schedules, strict=True):
        if pair not in distinct:
            distinct.append(pair)
        index_of_member.append(distinct.index(pair))
    names: tuple[str, ...] = ()
    blocks = []
    for of_member, schedule in distinct:
        rows = []
        for k in range(max_steps):
            row = {"schedule": schedule(k, max_steps), **rule.step_scalars(of_member, k)}
            names = tuple(row)
            rows.append(list(row.values()))
        blocks.append(torch.tensor(rows, dtype=torch.float64))  # (max_steps, N)
    values = torch.stack([blocks[i] for i in index_of_member], dim=-1)
    return StepTable(names, values.to(like))


@dataclass(frozen=True)
class _Slot:
    """One weight with its state and its scalars, in the shapes in which its rule takes them.

    Args:
        copies: number of matrices that a member's weight holds, if each is as one of a member; they
            have the members' dimension together.
    """

    rule: StackedRule
    table: StepTable
    weight: Tensor
    state: Tensors
    scalars: Tensors
    copies: int

    def repeated(self, numbers: Tensor) -> Tensor:
        """Numbers (..., S) of the members as (..., S * copies)."""
        return numbers if self.copies == 1 else numbers.repeat_interleave(self.copies, -1)


def _scalar_shape(weight: Tensor) -> tuple[int, ...]:
    """The shape (S, 1, ...) of one number a member that broadcasts with a weight (S, ...)."""
    return (len(weight), *[1] * (weight.dim() - 1))


def _slot(
    rule: StackedRule,
    table: StepTable,
    weight: Tensor,
    state: Tensors,
    scales: Sequence[Scale],
    batch_dims: int,
) -> _Slot:
    """Make the slot of a weight (S, *shape), whose first `batch_dims` of shape count copies."""
    matrices = weight.detach().flatten(0, batch_dims)
    copies = len(matrices) // len(weight)
    viewed = matrices.view(rule.view_shape(matrices.shape))
    viewed_state = {name: tensor.flatten(0, batch_dims) for name, tensor in state.items()}
    for name in rule.buffers:
        viewed_state[name] = state[name].view(viewed.shape)
    of_members = [rule.scalars(scale) for scale in scales]
    scalars = {}
    for name in of_members[0]:
        values = [member[name] for member in of_members]
        if name in ("l2", "decay") and not any(values):
            continue
        numbers = weight.new_tensor(values).repeat_interleave(copies)
        scalars[name] = numbers.view(_scalar_shape(viewed))
    return _Slot(rule, table, viewed, viewed_state, scalars, copies)


def _initial_state(
    rule: StackedRule,
    weight: Tensor,
    options: Mapping[str, Any],
    batch_dims: int,
) -> dict[str, Tensor]:
    members = weight.shape[0]
    copies = weight.shape[1 : batch_dims + 1]
    shapes = rule.states(weight.shape[batch_dims + 1 :], options)
    return {name: weight.new_zeros(members, *copies, *shape) for name, shape in shapes.items()}


@cache
def _compiled(update: Callable[..., None]) -> Callable[..., None]:
    """The update as one kernel for any shape, which reads and writes each tensor once."""
    return compiled(update, dynamic=True)
