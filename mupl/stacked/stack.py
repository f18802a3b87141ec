"""Many trainings of one shape as one: every tensor of the model gets a leading member axis."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.data.splits import Splits
from mupl.data.text import Tokens
from mupl.nn.initialize import draw, owner, parameters
from mupl.nn.unit_scaling import scales_gradients
from mupl.stacked.batches import stacked_batches, validation_batches
from mupl.stacked.compiled import compiled
from mupl.stacked.optimizer import StackedOptimizer
from mupl.stacked.rules import NotStackable
from mupl.stats.recorder import Recorder
from mupl.training.setup import Setup, cross_entropy

EAGER_STEPS = 3  # before a CUDA graph is captured: libraries and compiled kernels have to be loaded
COMPILED_STEPS = 300  # a shorter training takes less time than to compile it
# Outputs times members in one batch of an evaluation; bounds the activations, on a CPU to what its cache holds
EVALUATED, EVALUATED_ON_CPU = 2**16, 2**13


class Stack:
    """Trains S `Setup`s at once on one device; a member's trajectory is the one that it would have alone.

    Members share the model's shapes, the class of the optimizer, the loss and the batch size. Each has its own seed
    (initial weights and order of the data), parametrization, schedule and hyperparameters. The stack holds effective
    weights (see `mupl.stacked.optimizer`). A model whose class has `member_axis = True` takes them as they are; any other
    is mapped over them by `torch.func.vmap`. On CUDA a step is captured as a graph and replayed, of a long training
    with the model's `blocks` compiled.

    Args:
        members: best built under `torch.device("meta")`, as their weights are drawn here. Neighbours of equal seed
            share their batches, and with them one larger product in the first layer.
        max_steps: updates.
        clip: norm to which each member's gradient is clipped, or None.
        dtype: of weights and data; what was drawn in another is converted, as Lightning's 64-true does.
        autocast: dtype of the products, such as bfloat16, or None.

    Raises:
        NotStackable: if the model or the optimizer is not known to a stack.

    Attributes:
        weights: by name, (S, *shape).
        model: `x -> outputs (S, ...)` of x (G, ...), G being 1 or S or what the batches are.
        per_epoch: steps in an epoch.
        k: number of updates done.
        losses: (max_steps, S), of each step; NaN where it was not made yet.
    """

    def __init__(
        self,
        members: Sequence[Setup],
        splits: Splits | Tokens,
        *,
        batch_size: int,
        max_steps: int,
        clip: Sequence[float | None] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
    ) -> None:
        check_stackable(members[0])
        self.members, self.device = list(members), torch.device(device)
        self.max_steps, self._dtype, self._autocast = max_steps, dtype, autocast
        self.weights = _draw(self.members, self.device, dtype)
        numbers = _numbers(self.members)
        differing = any(isinstance(value, Tensor) for value in numbers.values())
        self.model = _stacked(self.members[0].build(), self.weights, numbers).to(self.device, dtype)
        self.optimizer = StackedOptimizer(
            self.weights,
            [member.scales for member in self.members],
            [member.optimizer_class for member in self.members],
            [member.schedule for member in self.members],
            clip or [None] * len(self.members),
            max_steps,
        )
        seeds = [member.seed for member in self.members]
        self._batches = stacked_batches(splits, seeds, batch_size, self.device, share=not differing)
        self.per_epoch = self._batches.per_epoch
        evaluated = EVALUATED_ON_CPU if self.device.type == "cpu" else EVALUATED
        self._validation = validation_batches(splits, evaluated // len(self.members), self.device)
        self.k, self._k = (
            0,
            torch.zeros(1, dtype=torch.int64, device=self.device),
        )  # the latter for the device
        self.losses = torch.full(
            (max_steps, len(self.members)), torch.nan, dtype=dtype, device=self.device
        )
        self._losses: Callable[[Tensor, Tensor], Tensor] = self._loss
        self._uncompiled: Callable[[], AbstractContextManager[Any]] = nullcontext
        if self.device.type == "cuda" and max_steps >= COMPILED_STEPS:
            self._compile()
        self._graph: Any = None
        self._warm = 0

    def _compile(self) -> None:
        """Compile the blocks of a model that has such, all as one, and the loss of what comes out of them."""
        if blocks := getattr(self.model, "blocks", ()):
            self._losses = compiled(self._loss, dynamic=False)
            self._uncompiled = partial(torch.compiler.set_stance, "force_eager")
        for block in blocks:
            block.forward = compiled(block.forward, dynamic=False)

    def train(
        self,
        until: int,
        interrupted: Callable[[], Any] = lambda: False,
        recorder: Recorder | None = None,
    ) -> None:
        """Go on until `until` updates are done or `interrupted()`; on CUDA this may return before they are."""
        while self.k < until and not interrupted():
            self._batches.set_step(self.k)
            if recorder is not None and (self.k == 0 or recorder.wanted(self.k)):
                self._record(recorder)
            elif (
                self.device.type == "cuda"
                and self._warm >= EAGER_STEPS
                and self.optimizer.capturable(self.k)
            ):
                self._replay()
            else:
                self._warm += 1
                self._step()
            self.k += 1

    def _replay(self) -> None:
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):  # records, and does nothing
                self._step()
        self._graph.replay()

    def _record(self, recorder: Recorder) -> None:
        recorder.t = self.k
        if recorder.probe is None:
            recorder.probe = self._in_dtype(self._batches()[0].clone())
        recorder.begin_step()
        with self._uncompiled():  # its hooks are in the modules
            gradients = self._step()
        for name, gradient in gradients.items():
            self.weights[name].grad = gradient
        recorder.end_step()
        for weight in self.weights.values():
            weight.grad = None

    def _step(self) -> dict[str, Tensor]:
        """One update of every member, without synchronisation; returns the gradients."""
        x, target = self._batches()
        losses = self._losses(self.forward(x), target)
        gradients = torch.autograd.grad(
            losses.sum(), list(self.weights.values()), materialize_grads=True
        )
        by_name = dict(zip(self.weights, gradients, strict=True))
        with torch.no_grad():
            self.optimizer.step(by_name, self._k, self.k)
            self.losses.index_copy_(0, self._k, losses.detach().to(self._dtype)[None])
            self._k.add_(1)
        return by_name

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (S, N, ...) of batches x (G, N, ...)."""
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            return self.model(self._in_dtype(x))

    def _in_dtype(self, x: Tensor) -> Tensor:
        return x.to(self._dtype) if x.is_floating_point() else x  # tokens stay integers

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(S,): every member's loss of output (S, N, ...) for target (G, N, ...)."""
        output = output.to(self._dtype)  # as autocast does: a loss in bfloat16 has three digits
        shared = len(output) // len(target)
        target = (
            target[:, None]
            .expand(-1, shared, *target.shape[1:])
            .reshape(len(output), *target.shape[1:])
        )
        loss = self.members[0].loss
        if loss is cross_entropy:  # vmap of it costs as much as a small model's step
            if (
                output.dim() > 3
            ):  # each as the last layer's product left it in memory, see `stacked_linear`
                each = F.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
                return each.view(len(output), -1).mean(1)
            return F.cross_entropy(output.mT, target, reduction="none").mean(
                1
            )  # of logits (S, classes, N)
        return torch.vmap(loss)(output, target)

    @torch.no_grad()
    def evaluate(self) -> dict[str, list[float]]:
        """val_loss and val_accuracy of each member."""
        self.model.eval()
        sums: dict[str, Tensor] = {}
        examples = 0
        for x, target in self._validation:
            with self._uncompiled():  # too seldom to be worth compiling for its shapes
                output = self.forward(x[None])
            values = {"val_loss": self._loss(output, target[None])}
            if not target.is_floating_point():
                values["val_accuracy"] = (
                    (output.argmax(-1) == target).to(self._dtype).flatten(1).mean(1)
                )
            examples += len(target)
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value * len(target)
        self.model.train()
        if "val_accuracy" in sums:
            sums["val_accuracy"] = sums["val_accuracy"].where(
                sums["val_loss"].isfinite(), torch.nan
            )
        return {name: (total / examples).tolist() for name, total in sums.items()}

    def diverged(self) -> list[int | None]:
        """Of each member the step whose loss was the first that is not finite, or None; those members are frozen.

        This is where the host waits for the device.
        """
        bad = ~self.losses[: self.k].isfinite()
        any_bad = bad.any(0)
        self.optimizer.freeze(any_bad)
        first = torch.where(any_bad, bad.int().argmax(0), -1).tolist()
        return [None if step < 0 else step for step in first]

    def nbytes(self) -> int:
        """Size of the state in bytes."""
        state = [x.nbytes for tensors in self.optimizer.state.values() for x in tensors.values()]
        return sum(state) + sum(w.nbytes for w in self.weights.values())

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, on its device."""
        own_buffers = isinstance(self.model, _Mapped)  # members have buffers of their own
        return {
            "k": self.k,
            "losses": self.losses,
            "weights": {name: w.detach() for name, w in self.weights.items()},
            "state": self.optimizer.state,
            "buffers": dict(self.model.named_buffers()) if own_buffers else {},
        }

    def load_state_dict(self, state: dict[str, Any], members: Sequence[int] | None = None) -> None:
        """Go on from a state, or from that of some of its members."""
        chosen = slice(None) if members is None else torch.tensor(members)
        self.k = state["k"]
        self._k.fill_(self.k)
        self.losses.copy_(state["losses"][:, chosen])
        own = self.state_dict()
        pairs = [(own[key], state[key]) for key in ("weights", "buffers")]
        pairs += [(tensors, state["state"][key]) for key, tensors in own["state"].items()]
        for mine, theirs in pairs:
            for name, tensor in mine.items():
                tensor.copy_(theirs[name][chosen])


def check_stackable(member: Setup) -> None:
    """Raises NotStackable if the model has multipliers of gradients of its own.

    Then a weight's gradient is not the effective weight's times its multiplier, of which a stack makes use.
    """
    if scales_gradients(member.model):
        raise NotStackable(
            "model: unit-scaled operations have multipliers of gradients, which a stack does not know"
        )


def _draw(
    members: Sequence[Setup], device: torch.device, dtype: torch.dtype
) -> dict[str, nn.Parameter]:
    """The initial effective weights, by name, (S, *shape): the values that `initialize_` gives to each member's model."""
    first = parameters(members[0].model, members[0].scales)
    weights = {
        name: torch.empty(len(members), *w.shape, dtype=dtype, device=device)
        for name, w in first.items()
    }

    def draw_member(index: int) -> None:
        member, generator = members[index], torch.Generator().manual_seed(members[index].seed)
        for name, w in parameters(member.model, member.scales).items():
            scale = member.scales[name]
            weights[name][index] = draw(scale, w.shape, w.dtype, generator).to(dtype) * scale.mult

    with ThreadPoolExecutor(
        os.cpu_count()
    ) as pool:  # torch draws with one thread, and without the GIL
        list(pool.map(draw_member, range(len(members))))
    return {name: nn.Parameter(w) for name, w in weights.items()}


def _numbers(members: Sequence[Setup]) -> dict[str, Any]:
    """The attributes of the model and its modules that are named in their `per_member`, multipliers of `Multiplier`s among
    them, by path: (S,) where members differ."""
    numbers = {}
    by_path = [dict(member.model.named_modules()) for member in members]
    for path, module in by_path[0].items():
        for name in getattr(module, "per_member", ()):
            if hasattr(module, name):  # not an argument that goes into what another module holds
                values = [getattr(modules[path], name) for modules in by_path]
                differ = len(set(values)) > 1
                key = f"{path}.{name}" if path else name
                numbers[key] = torch.tensor(values, dtype=torch.float64) if differ else values[0]
    return numbers


def _stacked(
    model: nn.Module, weights: dict[str, nn.Parameter], numbers: Mapping[str, Any]
) -> nn.Module:
    """A module of outputs (S, ...), with the stacked weights and numbers in place of the model's."""
    for name, value in numbers.items():
        module, leaf = owner(model, name)
        delattr(module, leaf)
        if isinstance(value, Tensor):
            module.register_buffer(leaf, value)
        else:
            setattr(module, leaf, value)
    if not getattr(model, "member_axis", False):
        return _Mapped(
            model, weights, {name for name, value in numbers.items() if isinstance(value, Tensor)}
        )
    for name, weight in weights.items():
        setattr(*owner(model, name), weight)
    return model


class _Mapped(nn.Module):
    """Any module, mapped over the members' weights and buffers, of which those in `stacked` have a member axis."""

    def __init__(
        self, model: nn.Module, weights: dict[str, nn.Parameter], stacked: Collection[str]
    ) -> None:
        super().__init__()
        self._weights, self._members = weights, len(next(iter(weights.values())))
        for name, buffer in model.named_buffers():
            of_members = (
                buffer if name in stacked else buffer.expand(self._members, *buffer.shape).clone()
            )
            self.register_buffer(name.replace(".", "/"), of_members)
        self._call = [
            model.to("meta")
        ]  # in a list: no submodule, whose parameters are not the ones trained

    def forward(self, x: Tensor) -> Tensor:
        """x (G, N, ...), G a divisor of S -> (S, N, ...)."""
        if 1 < len(x) < self._members:
            x = x.repeat_interleave(self._members // len(x), 0)
        values: dict[str, Tensor] = {
            name.replace("/", "."): buffer for name, buffer in self.named_buffers()
        }
        mapped = torch.vmap(self._one, (0, 0 if len(x) > 1 else None), randomness="different")
        return mapped({**self._weights, **values}, x if len(x) > 1 else x[0])

    def _one(self, values: dict[str, Tensor], x: Tensor) -> Tensor:
        model = self._call[0].train(self.training)
        return torch.func.functional_call(model, values, (x,))
