"""Update rules of optimizers for a stack of members, each with its own hyperparameters.

A stack trains effective weights: by the abc-symmetry (Tensor Programs V, Lemma J.1) a tensor `W = mult * w` with the
gradient of w multiplied by `grad` follows the same trajectory as W itself under other numbers (`StackedRule.numbers`),
so that a model needs no multipliers and a parametrization is nothing but numbers per tensor and member.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.adam import adam

from mupl.optim.schedules import Schedule
from mupl.parametrization.rules import Scale

Numbers = dict[str, float]

BLOCK = 2**16  # entries of a tensor that a CPU updates at once: with their gradients and state they stay in its cache


class NotStackable(Exception):
    """Says why something cannot be trained as a member of a stack."""


@dataclass(frozen=True)
class StackedRule:
    """How one optimizer updates W (S, n) of S members from its gradient G.

    Args:
        state: names of the tensors like W that it carries on, all 0 at first.
        options: of its constructor, those that may differ between members.
        update: `(W, G, state, numbers, flags)`, in place; numbers are (S, 1).
        numbers: `(scale, options) ->` numbers of one tensor, for its effective weights.
        step_numbers: `(options, k) ->` numbers of update k = 0, 1, ...
        fused: torch's own kernel for the same update of one large member on a CPU, which reads each tensor once.
        flags: of its constructor, those that all members of a stack must share.
    """

    state: tuple[str, ...]
    options: tuple[str, ...]
    update: Callable[..., None]
    numbers: Callable[[Scale, Mapping[str, Any]], Numbers]
    step_numbers: Callable[[Mapping[str, Any], int], Numbers]
    fused: Callable[..., None] | None = None
    flags: tuple[str, ...] = ()


def _sgd(w: Tensor, g: Tensor, state: Mapping[str, Tensor], n: Mapping[str, Tensor], nesterov: bool) -> None:
    if "l2" in n:
        g = torch.addcmul(g, w, n["l2"])
    buffer = state["momentum"].mul_(n["momentum"]).add_(g)
    w.addcmul_(torch.addcmul(g, buffer, n["momentum"]) if nesterov else buffer, -n["lr"] * n["schedule"])


def _adam(w: Tensor, g: Tensor, state: Mapping[str, Tensor], n: Mapping[str, Tensor]) -> None:
    if "l2" in n:
        g = torch.addcmul(g, w, n["l2"])
    if "decay" in n:
        w.mul_(1 - n["decay"] * n["schedule"])
    mean = state["exp_avg"].lerp_(g, n["1-beta1"])
    square = state["exp_avg_sq"].lerp_(g.square(), n["1-beta2"])
    denominator = torch.addcmul(n["eps"], square.sqrt(), n["rsqrt_correction2"])
    w.addcmul_(mean / denominator, -n["lr"] * n["schedule"] * n["1/correction1"])


def _adam_fused(w: Tensor, g: Tensor, state: Mapping[str, Tensor], n: Mapping[str, Tensor]) -> None:
    value = {name: number.item() for name, number in n.items()}
    lr = value["lr"] * value["schedule"]
    adam(
        [w],
        [g.contiguous()],  # torch's kernel would silently take it for contiguous
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [torch.tensor(value["k"])],
        fused=True,
        decoupled_weight_decay="decay" in n,
        amsgrad=False,
        beta1=1 - value["1-beta1"],
        beta2=1 - value["1-beta2"],
        lr=lr,
        weight_decay=value["decay"] / max(value["lr"], 1e-300) if "decay" in n else value.get("l2", 0.0),
        eps=value["eps"],
        maximize=False,
    )


def _sgd_numbers(scale: Scale, options: Mapping[str, Any]) -> Numbers:
    c = scale.mult * scale.grad
    return {"lr": scale.lr * scale.mult * c, "l2": scale.weight_decay / (scale.mult * c)}


def _adam_numbers(scale: Scale, options: Mapping[str, Any], decoupled: bool) -> Numbers:
    c = scale.mult * scale.grad
    decay = {"decay": scale.lr * scale.weight_decay} if decoupled else {"l2": scale.weight_decay / (scale.mult * c)}
    return {"lr": scale.lr * scale.mult, "eps": scale.eps / c, **decay}


def _adam_step(options: Mapping[str, Any], k: int) -> Numbers:
    beta1, beta2 = options["betas"]
    correction1, correction2 = 1 - beta1 ** (k + 1), 1 - beta2 ** (k + 1)
    return {
        "k": k,
        "1-beta1": 1 - beta1,
        "1-beta2": 1 - beta2,
        "1/correction1": 1 / correction1,
        "rsqrt_correction2": 1 / math.sqrt(correction2),
    }


def _adam_rule(decoupled: bool) -> StackedRule:
    numbers = partial(_adam_numbers, decoupled=decoupled)
    return StackedRule(("exp_avg", "exp_avg_sq"), ("betas",), _adam, numbers, _adam_step, _adam_fused)


RULES: dict[type[Optimizer], StackedRule] = {
    SGD: StackedRule(
        ("momentum",), ("momentum",), _sgd, _sgd_numbers, lambda o, k: {"momentum": o["momentum"]}, flags=("nesterov",)
    ),
    Adam: _adam_rule(decoupled=False),
    AdamW: _adam_rule(decoupled=True),
}
_OF_PARAM_GROUPS = ("params", "lr", "eps", "weight_decay")
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")  # change nothing but speed


def rule_of(optimizer: Callable[..., Optimizer]) -> tuple[StackedRule, dict[str, Any]]:
    """The rule of an optimizer's constructor, or a partial of it, and its options with their values.

    Raises:
        NotStackable: if there is none, or an option is set that it does not know.
    """
    constructor = optimizer.func if isinstance(optimizer, partial) else optimizer
    chosen = dict(optimizer.keywords) if isinstance(optimizer, partial) else {}
    if constructor not in RULES:
        raise NotStackable(f"optimizer {constructor.__name__}: a stack knows {', '.join(r.__name__ for r in RULES)}")
    rule = RULES[constructor]
    defaults = {name: p.default for name, p in inspect.signature(constructor).parameters.items()}
    known = (*rule.options, *rule.flags)
    for name, value in chosen.items():
        if name not in (*known, *_IMPLEMENTATION) and value != defaults[name]:
            raise NotStackable(f"optimizer.{name}={value}: a stack knows {', '.join(known)}")
    return rule, {name: chosen.get(name, defaults[name]) for name in known}


class StackedOptimizer:
    """Updates stacked effective weights.

    Args:
        weights: by name, (S, *shape).
        scales: of each member.
        optimizers: each member's constructor, or partial of one; all of the same class.
        schedules: each member's.
        clip: norm to which each member's gradient is clipped, or None.

    Attributes:
        state: by its name and then the weight's, (S, *shape).
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
        rules, options = zip(*map(rule_of, optimizers), strict=True)
        self.rule: StackedRule = rules[0]
        self._flags = {name: options[0][name] for name in self.rule.flags}
        self._weights = dict(weights)
        any_weight = next(iter(weights.values()))
        tensor = partial(torch.tensor, dtype=any_weight.dtype, device=any_weight.device)
        self.state = {s: {name: torch.zeros_like(w) for name, w in weights.items()} for s in self.rule.state}
        self._numbers = {}
        for name in weights:
            table = _columns([self.rule.numbers(s[name], o) for s, o in zip(scales, options, strict=True)])
            skipped = {key for key in ("l2", "decay") if key in table and not any(table[key])}
            self._numbers[name] = {key: tensor(table[key])[:, None] for key in table if key not in skipped}
        self._clip = tensor([math.inf if c is None else c for c in clip]) if any(c is not None for c in clip) else None
        self._grad_scale = {name: tensor([s[name].mult * s[name].grad for s in scales]) for name in weights}
        self._step_names, by_step = _by_step(options, schedules, self.rule.step_numbers, max_steps)
        self._step_numbers = by_step.to(any_weight)[..., None]

    def step(self, gradients: Mapping[str, Tensor], k: Tensor) -> None:
        """Make update number k, a tensor (1,) so that the host need not know it; gradients are (S, *shape)."""
        shared = dict(zip(self._step_names, self._step_numbers.index_select(0, k)[0], strict=True))
        clip = self._clip_factor(gradients)
        update = _compiled(self.rule.update) if k.is_cuda else partial(_blockwise, self.rule)
        for name, w in self._weights.items():
            rows = (len(w), -1)
            g = gradients[name].reshape(rows)
            state = {s: tensors[name].view(rows) for s, tensors in self.state.items()}
            update(w.view(rows), g if clip is None else g * clip, state, shared | self._numbers[name], **self._flags)

    def _clip_factor(self, gradients: Mapping[str, Tensor]) -> Tensor | None:
        """(S, 1): what multiplies a member's gradients so that their norm, as an optimizer of w sees it, is bounded."""
        if self._clip is None:
            return None
        norms = {name: torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for name, g in gradients.items()}
        scaled = [norm * self._grad_scale[name] for name, norm in norms.items()]
        norm = torch.linalg.vector_norm(torch.stack(scaled), dim=0)
        return (self._clip / (norm + 1e-6)).clamp(max=1)[:, None]  # 1e-6 as torch.nn.utils.clip_grad_norm_

    @torch.no_grad()
    def freeze(self, diverged: Tensor) -> None:
        """Set weights, state and learning rate of the members marked in (S,) bool to 0: there they stay."""
        rates = {name: numbers["lr"] for name, numbers in self._numbers.items()}
        for tensors in (self._weights, *self.state.values(), rates):
            for tensor in tensors.values():
                tensor[diverged] = 0

    def decay_rates(self, k: int) -> dict[str, Tensor]:
        """lr * weight_decay (S,) of update k, of the weights whose weight decay is decoupled."""
        schedule = self._step_numbers[k, self._step_names.index("schedule")]
        return {name: (n["decay"] * schedule)[:, 0] for name, n in self._numbers.items() if "decay" in n}


@cache
def _compiled(update: Callable[..., None]) -> Callable[..., None]:
    """The rule as one kernel, for any shape: it reads and writes each tensor once."""
    return torch.compile(update, dynamic=True)


def _columns(rows: Sequence[Numbers]) -> dict[str, list[float]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _by_step(
    options: Sequence[Mapping[str, Any]],
    schedules: Sequence[Schedule],
    numbers: Callable[[Mapping[str, Any], int], Numbers],
    max_steps: int,
) -> tuple[tuple[str, ...], Tensor]:
    """Names of the numbers of a step, and their values (max_steps, names, S) in float64."""
    columns: dict[str, list[list[float]]] = {}  # of each distinct member: members mostly share betas and schedule
    names: tuple[str, ...] = ()
    keys = [repr((sorted(o.items()), s)) for o, s in zip(options, schedules, strict=True)]
    for key, member_options, schedule in zip(keys, options, schedules, strict=True):
        if key not in columns:
            rows = [{"schedule": schedule.factor(k, max_steps), **numbers(member_options, k)} for k in range(max_steps)]
            names = tuple(rows[0])
            columns[key] = [list(row.values()) for row in rows]
    distinct = torch.tensor(list(columns.values()), dtype=torch.float64)
    index = {key: i for i, key in enumerate(columns)}
    return names, distinct[[index[key] for key in keys]].permute(1, 2, 0)


def _blockwise(
    rule: StackedRule, w: Tensor, g: Tensor, state: Mapping[str, Tensor], n: Mapping[str, Tensor], **flags: Any
) -> None:
    """The update in blocks of members that stay in a CPU's cache."""
    rows = max(1, BLOCK // w.shape[1])
    update = rule.fused if rows == 1 and rule.fused else rule.update
    for i in range(0, len(w), rows):
        block = slice(i, i + rows)
        update(
            w[block], g[block], {s: t[block] for s, t in state.items()}, {k: t[block] for k, t in n.items()}, **flags
        )
