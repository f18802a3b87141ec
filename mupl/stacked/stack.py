"""Many trainings of one shape as one: every tensor of the model gets a leading member axis."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mupl.data.batches import shared_seeds
from mupl.data.splits import Examples
from mupl.data.text import Tokens
from mupl.nn.dropout import dropout_layers
from mupl.roles import ParamInfo
from mupl.stacked.compiled import CapturedStep, compiled
from mupl.stacked.model import (
    MappedModel,
    check_stackable,
    member_numbers,
    sample_weights,
    stacked_model,
)
from mupl.stacked.optimizer import StackedOptimizer
from mupl.stacked.state import check_fits, tensors_by_member
from mupl.stats.readout_norm import readout_norm, readout_of
from mupl.stats.recorder import Recorder
from mupl.training.losses import cross_entropy
from mupl.training.setup import Setup

COMPILED_STEPS = 300  # a shorter training takes less time than to compile it
# Outputs times members in one batch of an evaluation; bounds the activations, on a CPU to what its
# cache holds
EVALUATED = 2**16
EVALUATED_ON_CPU = 2**13


class Stack:
    """Trains S `Setup`s at once on one device, each as it would be trained alone.

    Members share the model's shapes, the class of the optimizer, the loss and the batch size. Each
    has its own seed (initial weights and order of the data), parametrization, schedule and
    hyperparameters. The stack holds effective weights (see `mupl.stacked.rules`). A model whose
    class has `member_axis = True` takes them as they are; any other is mapped over them by
    `torch.func.vmap`. On CUDA a step is captured as a graph and replayed; in a long training the
    model's `blocks` are compiled first.

    Args:
        members: best built under `torch.device("meta")`, as their weights are sampled here.
            Neighbours of equal seed share their batches, and with them one larger product in the
            first layer.
        max_steps: updates.
        clip: norm to which each member's gradient is clipped, or None.
        dtype: of weights and data. Weights sampled in another dtype are converted, as Lightning's
            64-true does.
        autocast: dtype of the products, such as bfloat16, or None.

    Raises:
        NotStackable: if the model or the optimizer is not known to a stack.

    Attributes:
        weights: by name, (S, *shape).
        model: `x -> outputs (S, ...)` of x (G, ...), where G is 1, S or the number of different
            batches.
        per_epoch: steps in an epoch.
        k: number of updates done.
        losses: (max_steps, S), of each step; NaN where it was not made yet.
    """

    def __init__(
        self,
        members: Sequence[Setup],
        splits: Examples | Tokens,
        *,
        batch_size: int,
        max_steps: int,
        clip: Sequence[float | None] | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
    ) -> None:
        check_stackable(members[0])
        self.members = list(members)
        self.device = torch.device(device)
        self.max_steps = max_steps
        self._dtype = dtype
        self._autocast = autocast
        self.weights = sample_weights(members, self.device, dtype)
        numbers = member_numbers(members)
        seeds = [member.seed for member in members]
        model = stacked_model(members[0].build(), self.weights, numbers, seeds)
        self.model = model.to(self.device, dtype)
        self.optimizer = StackedOptimizer(
            self.weights,
            [member.scales for member in members],
            [member.optimizer_class for member in members],
            [member.schedule for member in members],
            clip or [None] * len(members),
            max_steps,
        )
        differ = any(isinstance(value, Tensor) for value in numbers.values())
        of_batches = seeds if differ else shared_seeds(seeds)
        self._batches = splits.train_batches(batch_size, of_batches, self.device)
        self.per_epoch = self._batches.per_epoch
        outputs = EVALUATED_ON_CPU if self.device.type == "cpu" else EVALUATED
        outputs //= len(members) * (splits.context if isinstance(splits, Tokens) else 1)
        self._validation = splits.val_batches(max(1, outputs), self.device)
        self.k = 0
        self._k_on_device = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.losses = torch.full((max_steps, len(members)), torch.nan, dtype=dtype, device=device)
        self._loss_function: Callable[[Tensor, Tensor], Tensor] = self._losses
        self._eagerly: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._captured = CapturedStep() if self.device.type == "cuda" else None
        self._check_loss()
        if self._captured is not None and max_steps >= COMPILED_STEPS:
            self._compile()

    @torch.no_grad()
    def _check_loss(self) -> None:
        """Give the loss what one member has of the first batch, as it is mapped unchecked later.

        Raises:
            ConfigError: see `mupl.training.losses.CheckedLoss`.
        """
        self._batches.set_step(0)
        x, target = self._batches()
        self.model.eval()  # leaves buffers and the numbers of the masks as they are
        output = self.forward(x)
        self.model.train()
        self.members[0].loss(output[0].to(self._dtype), target[0])

    def _compile(self) -> None:
        """Compile the model's blocks, all as one, and the loss.

        A model without `blocks` is left as it is.
        """
        blocks = getattr(self.model, "blocks", ())
        if len(blocks) > 0:
            self._loss_function = compiled(self._losses, dynamic=False)
            self._eagerly = partial(torch.compiler.set_stance, "force_eager")
        for block in blocks:
            block.forward = compiled(block.forward, dynamic=False)

    def train(
        self,
        until: int,
        interrupted: Callable[[], Any] = lambda: False,
        recorder: Recorder | None = None,
    ) -> None:
        """Go on until `until` updates are done, or until `interrupted()`.

        On CUDA this may return before the device is done.
        """
        while self.k < until and not interrupted():
            self._batches.set_step(self.k)
            if recorder is not None and (self.k == 0 or recorder.wanted(self.k)):
                self._record(recorder)
            elif self._captured is not None and self.optimizer.capturable(self.k):
                self._captured(self._step)
            else:
                self._step()
            self.k += 1

    def _step(self) -> dict[str, Tensor]:
        """Make one update of every member, without synchronisation, and return the gradients."""
        x, target = self._batches()
        losses = self._loss_function(self.forward(x), target)
        weights = list(self.weights.values())
        gradients = torch.autograd.grad(losses.sum(), weights, materialize_grads=True)
        by_name = dict(zip(self.weights, gradients, strict=True))
        with torch.no_grad():
            self.optimizer.step(by_name, self._k_on_device, self.k)
            row = losses.detach().to(self._dtype)
            self.losses.index_copy_(0, self._k_on_device, row[None])
            self._k_on_device.add_(1)
        return by_name

    def _record(self, recorder: Recorder) -> None:
        """Make one update, between the two calls by which a recorder sees it."""
        recorder.t = self.k
        if recorder.probe is None:
            x, _ = self._batches()
            recorder.probe = self._in_dtype(x.clone())
        recorder.begin_step()
        with self._eagerly():  # the recorder's hooks are in the modules
            gradients = self._step()
        for name, gradient in gradients.items():
            self.weights[name].grad = gradient
        recorder.end_step()
        for weight in self.weights.values():
            weight.grad = None

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (S, N, ...) of batches x (G, N, ...)."""
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            return self.model(self._in_dtype(x))

    def _in_dtype(self, x: Tensor) -> Tensor:
        return x.to(self._dtype) if x.is_floating_point() else x  # tokens stay integers

    def _losses(self, output: Tensor, target: Tensor) -> Tensor:
        """(S,): every member's loss.

        Args:
            output: (S, N, ...).
            target: (G, N, ...), where G divides S.
        """
        output = output.to(self._dtype)  # as autocast does: a loss in bfloat16 has three digits
        members_each = len(output) // len(target)
        repeated = target[:, None].expand(-1, members_each, *target.shape[1:])
        target = repeated.reshape(len(output), *target.shape[1:])
        loss = self.members[0].loss.function
        if loss is cross_entropy:  # its vmap costs as much as a small model's step
            return _cross_entropies(output, target)
        return torch.vmap(loss)(output, target)

    @torch.no_grad()
    def evaluate(self) -> dict[str, list[float]]:
        """Each member's val_loss, and its val_accuracy if targets are classes.

        An accuracy is NaN where the loss is not finite.
        """
        self.model.eval()
        sums: dict[str, Tensor] = {}
        examples = 0
        for x, target in self._validation:
            with self._eagerly():  # too seldom to be worth compiling for its shapes
                output = self.forward(x[None])
            values = {"val_loss": self._losses(output, target[None])}
            if not target.is_floating_point():
                right = (output.argmax(-1) == target).to(self._dtype)
                values["val_accuracy"] = right.flatten(1).mean(1)
            examples += len(target)
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value * len(target)
        self.model.train()
        if "val_accuracy" in sums:
            finite = sums["val_loss"].isfinite()
            sums["val_accuracy"] = sums["val_accuracy"].where(finite, torch.nan)
        return {name: (total / examples).tolist() for name, total in sums.items()}

    def mean_losses(self) -> list[float]:
        """Each member's mean training loss over the last tenth of the steps made so far."""
        count = max(1, round(0.1 * self.k))
        last = self.losses[self.k - count : self.k]
        return last.mean(0).tolist()

    def readout_norms(self) -> list[float | None]:
        """Each member's `Setup.readout_norm` of its weights as they are now."""
        by_name: dict[str, list[float]] = {}
        norms: list[float | None] = []
        for i, member in enumerate(self.members):
            name = readout_of(member.infos)
            if name is None:
                norms.append(None)
                continue
            if name not in by_name:
                info = member.infos[name]
                assert isinstance(info, ParamInfo)
                by_name[name] = readout_norm(self.weights[name], info, members=1).tolist()
            norms.append(by_name[name][i])
        return norms

    def diverged(self) -> list[int | None]:
        """For each member the first step whose loss is not finite, or None.

        Freezes the members that have one. Here the host waits for the device.
        """
        if self.k == 0:  # interrupted before the first step
            return [None] * len(self.members)
        bad = ~self.losses[: self.k].isfinite()
        any_bad = bad.any(0)
        self.optimizer.freeze(any_bad)
        first = torch.where(any_bad, bad.int().argmax(0), -1).tolist()
        return [None if step < 0 else step for step in first]

    def nbytes(self) -> int:
        """Size in bytes of weights and optimizer state."""
        total = sum(w.nbytes for w in self.weights.values())
        for tensors in self.optimizer.state.values():
            total += sum(x.nbytes for x in tensors.values())
        return total

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, on its device."""
        return {
            "k": self.k,
            "losses": self.losses,
            "weights": {name: w.detach() for name, w in self.weights.items()},
            "state": self.optimizer.state,
            "buffers": self._changing_buffers(),
        }

    def _changing_buffers(self) -> dict[str, Tensor]:
        """The model's buffers that training may change, each (S, ...); the others are constants."""
        if isinstance(self.model, MappedModel):  # such as BatchNorm's
            return dict(self.model.named_buffers())
        return {f"{path}.calls": layer.calls for path, layer in dropout_layers(self.model).items()}

    def load_state_dict(self, state: dict[str, Any], members: Sequence[int] | None = None) -> None:
        """Go on from a state, or from the part of it that belongs to these members.

        Raises:
            ValueError: naming what does not fit this stack, before anything is copied.
        """
        mine = self.state_dict()
        check_fits(mine, state, members, self.max_steps)
        chosen = slice(None) if members is None else torch.tensor(members)
        self.k = state["k"]
        self._k_on_device.fill_(self.k)
        saved = tensors_by_member(state)
        for name, tensor in tensors_by_member(mine).items():
            tensor.copy_(saved[name][chosen])
        self.diverged()  # freezes the members that had diverged


def _cross_entropies(output: Tensor, target: Tensor) -> Tensor:
    """(S,): the mean cross-entropies of logits (S, N, ..., C) for classes (S, N, ...)."""
    if output.dim() == 3:
        return F.cross_entropy(output.mT, target, reduction="none").mean(1)
    # of more dimensions without a copy, as the last layer's product left them in memory: see
    # `stacked_linear`
    losses = F.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
    return losses.view(len(output), -1).mean(1)
