"""The optimizer of a stack of members, each with its own hyperparameters.

A stack trains effective weights: by the abc-symmetry (Tensor Programs V, Lemma J.1) a tensor `W = mult * w` with the
gradient of w multiplied by `grad` follows the same trajectory as W itself under other numbers, so that a model needs no
multipliers and a parametrization is nothing but numbers per tensor and member.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mupl.optim.schedules import Schedule
from mupl.parametrization.scales import Scale
from mupl.stacked.compiled import compiled
from mupl.stacked.rules import NotStackable, StackedRule, StepNumbers, Tensors, stackable

BLOCK = (
    2**16
)  # entries of a tensor that a CPU updates at once: with their gradients and state they stay in its cache


class StackedOptimizer:
    """Updates stacked effective weights.

    Args:
        weights: by name, (S, *shape).
        scales: of each member.
        optimizers: each member's constructor, or partial of one; all of the same class.
        schedules: each member's.
        clip: norm to which each member's gradient is clipped, or None.

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
        known, options = zip(*map(stackable, optimizers), strict=True)
        self._flags = options[0]
        any_weight = next(iter(weights.values()))
        tensor = partial(torch.tensor, dtype=any_weight.dtype, device=any_weight.device)
        self.state: dict[str, dict[str, Tensor]] = {}
        self._tensors: dict[str, _Seen] = {}
        for name, weight in weights.items():
            rule = _shared_rule(name, known[0].rules, scales)
            states = {
                state: weight.new_zeros(len(scales), *shape)
                for state, shape in rule.states(weight.shape[1:], self._flags).items()
            }
            for state, x in states.items():
                self.state.setdefault(state, {})[name] = x
            numbers = [rule.numbers(s[name]) for s in scales]
            columns = {key: [of_member[key] for of_member in numbers] for key in numbers[0]}
            kept = {
                key: values
                for key, values in columns.items()
                if key not in ("l2", "decay") or any(values)
            }
            rows = weight.shape if rule.dims is None else (*weight.shape[: rule.dims], -1)
            column = (len(scales), *[1] * (len(rows) - 1))
            self._tensors[name] = _Seen(
                rule,
                weight.detach().view(rows),
                {s: x.view(rows) if s in rule.state else x for s, x in states.items()},
                {key: tensor(values).view(column) for key, values in kept.items()},
            )
        self._clip = (
            tensor([math.inf if c is None else c for c in clip])
            if any(c is not None for c in clip)
            else None
        )
        self._grad_scale = {
            name: tensor([s[name].mult * s[name].grad for s in scales]) for name in weights
        }
        self._by_step = {}
        for rule in dict.fromkeys(seen.rule for seen in self._tensors.values()):
            names, by_step = _by_step(options, schedules, rule.step_numbers, max_steps)
            self._by_step[rule] = names, by_step.to(any_weight)

    def capturable(self, k: int) -> bool:
        """Whether a CUDA graph can hold update k, and all others of which this is true."""
        return not any(rule.on_host(self._flags, k) for rule in self._by_step)

    def step(self, gradients: Mapping[str, Tensor], k: Tensor, on_host: int) -> None:
        """Make update number k, a tensor (1,) for the device; gradients are (S, *shape).

        In a graph the number on the host is that of its capture.
        """
        clip = self._clip_factor(gradients)
        values = {rule: table.index_select(0, k)[0] for rule, (_, table) in self._by_step.items()}
        shared: dict[
            tuple[StackedRule, tuple[int, ...]], dict[str, Tensor]
        ] = {}  # most tensors see the same views
        for name, seen in self._tensors.items():
            rule, column = seen.rule, seen.numbers["lr"].shape
            if (rule, column) not in shared:
                names, _ = self._by_step[rule]
                shared[rule, column] = dict(zip(names, values[rule].view(-1, *column), strict=True))
            flags = {
                flag: value
                for flag, value in {**self._flags, "k": on_host}.items()
                if flag in rule.flags
            }
            g = gradients[name].reshape(seen.weight.shape)
            _apply(
                rule,
                seen.weight,
                g if clip is None else g * clip.view(column),
                seen.state,
                shared[rule, column] | seen.numbers,
                **flags,
            )

    def _clip_factor(self, gradients: Mapping[str, Tensor]) -> Tensor | None:
        """(S,): what multiplies a member's gradients so that their norm, as an optimizer of w sees it, is bounded."""
        if self._clip is None:
            return None
        norms = {
            name: torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1)
            for name, g in gradients.items()
        }
        scaled = [norm * self._grad_scale[name] for name, norm in norms.items()]
        norm = torch.linalg.vector_norm(torch.stack(scaled), dim=0)
        return (self._clip / (norm + 1e-6)).clamp(max=1)  # 1e-6 as torch.nn.utils.clip_grad_norm_

    @torch.no_grad()
    def freeze(self, diverged: Tensor) -> None:
        """Set weights, state and learning rate of the members marked in (S,) bool to 0: there they stay."""
        for seen in self._tensors.values():
            for tensor in (seen.weight, *seen.state.values(), seen.numbers["lr"]):
                tensor[diverged] = 0

    def decay_rates(self, k: int) -> dict[str, Tensor]:
        """lr * weight_decay (S,) of update k, of the weights whose weight decay is decoupled."""
        rates = {}
        for name, seen in self._tensors.items():
            if "decay" in seen.numbers:
                names, table = self._by_step[seen.rule]
                rates[name] = seen.numbers["decay"].flatten() * table[k, names.index("schedule")]
        return rates


@dataclass(frozen=True)
class _Seen:
    """A weight as its rule sees it: views of the tensors and of the members' numbers (S, 1, ...) that go with it."""

    rule: StackedRule
    weight: Tensor
    state: dict[str, Tensor]
    numbers: dict[str, Tensor]


def _shared_rule(
    name: str, rules: Mapping[str, StackedRule], scales: Sequence[Mapping[str, Scale]]
) -> StackedRule:
    """The rule for this tensor; NotStackable if members need different ones."""
    update_kinds = {member[name].update_kind for member in scales}
    if len(update_kinds) > 1:
        raise NotStackable(
            f"{name}: members differ in the kind of its updates: {', '.join(sorted(update_kinds))}"
        )
    return rules[update_kinds.pop()]


def _apply(
    rule: StackedRule, w: Tensor, g: Tensor, state: Tensors, n: Tensors, **flags: Any
) -> None:
    """On a CPU, entrywise rules go block by block of members, so that what belongs together stays in its cache."""
    members = max(1, BLOCK // w[0].numel())
    if rule.dims == 1 and w.is_cuda:
        _compiled(rule.update)(w, g, state, n, **flags)
    elif rule.dims == 1 and members == 1 and rule.fused:  # of a stack of one too
        values = {name: number.flatten().tolist() for name, number in n.items()}
        for i in range(len(w)):
            own = {name: of_members[i] for name, of_members in values.items()}
            rule.fused(w[i], g[i], {s: x[i] for s, x in state.items()}, own, **flags)
    elif rule.dims != 1 or members >= len(w):
        rule.update(w, g, state, n, **flags)
    else:
        for i in range(0, len(w), members):
            b = slice(i, i + members)
            rule.update(
                w[b],
                g[b],
                {s: x[b] for s, x in state.items()},
                {s: x[b] for s, x in n.items()},
                **flags,
            )


@cache
def _compiled(update: Callable[..., None]) -> Callable[..., None]:
    """The rule as one kernel, for any shape: it reads and writes each tensor once."""
    return compiled(update, dynamic=True)


def _by_step(
    options: Sequence[Mapping[str, Any]],
    schedules: Sequence[Schedule],
    numbers: StepNumbers,
    max_steps: int,
) -> tuple[tuple[str, ...], Tensor]:
    """Names of the numbers of a step, and their values (max_steps, names, S) in float64."""
    keys = [repr((sorted(o.items()), s)) for o, s in zip(options, schedules, strict=True)]
    distinct = dict(
        zip(keys, zip(options, schedules, strict=True), strict=True)
    )  # members mostly share both
    rows = [
        [{"schedule": schedule(k, max_steps), **numbers(of_member, k)} for k in range(max_steps)]
        for of_member, schedule in distinct.values()
    ]
    values = torch.tensor(
        [[list(row.values()) for row in of_member] for of_member in rows], dtype=torch.float64
    )
    order = list(distinct)
    return tuple(rows[0][0]), values[[order.index(key) for key in keys]].permute(1, 2, 0)
