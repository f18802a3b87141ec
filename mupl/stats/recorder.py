"""Record statistics of a training run, the same numbers under every parametrization."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.names import match_globs
from mupl.nn.tensors import owner
from mupl.nn.tensors import parameters as original_parameters
from mupl.parametrization.exponents import MODEL_OUTPUT
from mupl.parametrization.scales import Scale
from mupl.roles import multipliers
from mupl.roles.fans import holds_copies
from mupl.stats.attention import AttentionHooks
from mupl.stats.outputs import OutputHooks
from mupl.stats.parts import PartHooks
from mupl.stats.reductions import STATISTICS
from mupl.stats.rows import KINDS, Predict, Row, StatisticRows

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, Any]
PARTS = frozenset({"effective", "propagating", "alignment"})  # see `mupl.stats.parts`
IMAGE_DIMS = 4  # examples, channels and two of positions
OF_CHANGES = PARTS | {"output_change"}  # kinds that compare the outputs with those at the start
OF_UPDATES = frozenset({"action", "output_update"})  # or with those before an update
PROBED = OF_CHANGES | OF_UPDATES  # kinds that are of the probe batch


class HasDecayRates(Protocol):
    """An optimizer of stacked weights that says by how much it decays them."""

    def decay_rates(self, k: int) -> Mapping[str, Tensor]:
        """lr * weight_decay (S,) of update k, for each weight whose weight decay is decoupled."""


class Recorder:
    """Record statistics of a model at each step t, the number of updates done so far.

    Rows at t are of the weights after t updates, of the outputs and gradients that these give, and
    of the update that follows, from t to t + 1. Weights are effective ones, `W = mult * w`. Two
    calls frame a step of any loop:

    >>> import mupl.models
    >>> model = mupl.models.MLP(4, 2, width=8, depth=1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> batch = torch.ones(3, 4)
    >>> with Recorder(model, steps=[0, 2]) as recorder:
    ...     for _ in range(3):
    ...         recorder.begin_step()
    ...         optimizer.zero_grad()
    ...         model(batch).square().mean().backward()
    ...         optimizer.step()
    ...         recorder.end_step()
    >>> table = recorder.frame()
    >>> table.query("kind == 'update'")[["t", "kind", "name", "statistic"]].head(2)
       t    kind             name statistic
    6  0  update  layers.0.weight        l1
    7  0  update    layers.0.bias        l1

    Of a module that is called several times in a step the last call counts. All values of a step go
    to the host in one transfer. A spectral norm has a relative error of 1e-3; it is up to 6 % too
    small for an update that is weight decay alone.

    Args:
        model: any module.
        scales: what `initialize_` was given; None: every parameter is an effective weight.
        kinds: of `mupl.stats.rows.KINDS`.
        statistics: of `mupl.stats.reductions.STATISTICS`. Statistics of matrices take tensors of
            two or more dimensions, as matrices (shape[0], rest).
        steps: the values of t to record, or n for every n-th. On a logarithmic scale, such as 0, 1,
            2, 4, 16, 64, 256, late steps are seen at the price of few.
        parameters: globs on parameter names.
        modules: globs on module names, for outputs; by default the modules that own parameters of
            two or more dimensions, each `Multiplier` and each readout by a shared matrix.
        probe: input of the model for the kinds of `PROBED`, or a function that calls the model with
            one, `model -> Any`. It is seen in eval mode, and may be set later.
        columns: constants to put into each row, such as width and seed. A list of them, one entry
            for each member, says that the model is a stack: its tensors and outputs have a leading
            member axis and its weights are effective.
        optimizer: for `gradient_update` and `decay`, which need its lr and weight_decay.
        expected: (t, whether weight decay is decoupled, gradients=mean |gradient| by name, of kind
            "grad" if that is recorded; of_images=modules that return images, if kind "effective"
            is) -> by (kind, name) the exponent of width that must be seen
            (`Setup.expected_exponents`); adds the columns low, high and zero to the rows. Of a
            stack a list of them.

    Attributes:
        t: number of updates done; set it before the first step where training continues.

    Raises:
        ConfigError: on an unknown kind or statistic, a glob without a match, steps below 1; and by
            a step that lacks a probe or gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        scales: Mapping[str, Scale] | None = None,
        *,
        kinds: Iterable[str] = ("output", "param", "update"),
        statistics: Iterable[str] = ("l1",),
        steps: int | Iterable[int] = 1,
        parameters: Iterable[str] = ("*",),
        modules: Iterable[str] | None = None,
        probe: Any = None,
        columns: Columns | Sequence[Columns] | None = None,
        optimizer: Optimizer | HasDecayRates | None = None,
        expected: Predict | Sequence[Predict] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"recorder.model: must be an nn.Module, not a {type(model).__name__}")
        self.kinds = frozenset(_known("kinds", kinds, KINDS))
        self.steps = checked_steps(steps)
        self.probe = probe
        self.t = 0
        member_axes = int(isinstance(columns, list | tuple))
        self._rows = StatisticRows(
            _known("statistics", statistics, STATISTICS),
            _as_list(columns or {}),
            member_axes,
            None if expected is None else _as_list(expected),
        )
        self._weights = _tracked_weights(model, scales, parameters, member_axes)
        if modules is None:
            names = _modules_of_matrices(model, self._weights, member_axes, scales or {})
        else:
            names = match_globs("recorder.modules", modules, dict(model.named_modules()))
        self._hooks = OutputHooks(model, names)
        tracked = [weight.w for weight in self._weights.values()]
        in_parts = names if self.kinds & (PARTS | {"action"}) else []
        self._member_axes = member_axes
        self._parts = PartHooks(model, in_parts, tracked, member_axes)
        self._of_model = OutputHooks(model, [""] if "logits" in self.kinds else [])
        self._attention: AttentionHooks | None = None
        if "attention_logits" in self.kinds:
            if member_axes:
                raise ConfigError("recorder.kinds=attention_logits: are not recorded of a stack")
            self._attention = AttentionHooks(model)
        self._optimizer = optimizer
        self._initial: _Snapshot | None = None  # before training
        self._before = _Snapshot({}, {})  # before the update that is recorded
        self._decay: Mapping[str, float | Tensor] = {}  # lr * weight_decay of that update

    @property
    def rows(self) -> list[Row]:
        """Dicts of the constant columns, t, kind, name, statistic and value.

        The name is the parameter's or the module's.
        """
        return self._rows.rows

    def wanted(self, t: int) -> bool:
        """Whether step t is one that `steps` names."""
        if isinstance(self.steps, int):
            return t % self.steps == 0
        return t in self.steps

    @torch.no_grad()
    def begin_step(self) -> None:
        """Call before the forward pass."""
        wanted = self.wanted(self.t)
        if not wanted and self._initial is not None:
            return
        self._parts.start()
        outputs = self._probe_outputs(self.kinds & (PROBED if wanted else OF_CHANGES))
        self._parts.stop()
        if self._initial is None:
            weights = self._copy_weights(PARTS | {"change"})
            kept = outputs if self.kinds & OF_CHANGES else {}
            self._initial = _Snapshot(weights, kept)
        if not wanted:
            return
        self._decay = self._decay_rates()  # now, as a scheduler may step before `end_step`
        self._add_weights()
        self._add_changes(self._initial, outputs)
        weights = self._copy_weights({"update", "gradient_update", "action"})
        self._before = _Snapshot(weights, outputs)
        self._hooks.start(
            outputs="output" in self.kinds,
            gradients="output_grad" in self.kinds,
        )
        self._of_model.start()
        if self._attention is not None:
            self._attention.start()

    @torch.no_grad()
    def end_step(self) -> None:
        """Call after the optimizer step, before gradients are set to zero again."""
        outputs, gradients = self._hooks.stop()
        of_model, _ = self._of_model.stop()
        attention = {} if self._attention is None else self._attention.stop()
        if self.wanted(self.t):
            for logits in of_model.values():
                self._rows.add(MODEL_OUTPUT, logits, {"logits": 1.0})
            for name, logits in attention.items():
                self._rows.add(name, logits, {"attention_logits": 1.0})
            for name, output in outputs.items():
                self._rows.add(name, output, {"output": 1.0})
            for name, gradient in gradients.items():
                self._rows.add(name, gradient, {"output_grad": 1.0})
            self._add_gradients()
            self._add_updates()
            self._add_output_updates()
            decoupled_decay = len(self._decay) > 0
            self._rows.finish_step(self.t, decoupled_decay)
        self.t += 1

    def close(self) -> None:
        """Remove the hooks and drop the copies of weights."""
        self._hooks.remove()
        self._parts.remove()
        self._of_model.remove()
        if self._attention is not None:
            self._attention.remove()
        self._initial = None
        self._before = _Snapshot({}, {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def rows_of(self, member: int) -> list[Row]:
        """The rows of one member of a stack."""
        return self._rows.rows_of(member)

    def frame(self, member: int = 0) -> "pd.DataFrame":
        """The rows, of one member of a stack, as a table."""
        return self._rows.frame(member)

    def write(self, path: Path | str, member: int = 0) -> None:
        """Write the table, of one member of a stack, as csv or parquet by the suffix.

        The file is there whole or not at all.

        Raises:
            ConfigError: on another suffix.
        """
        self._rows.write(Path(path), member)

    def _copy_weights(self, kinds: Set[str]) -> dict[str, Tensor]:
        """Copies of the weights if one of these kinds is recorded."""
        if self.kinds.isdisjoint(kinds):
            return {}
        return {name: weight.w.clone() for name, weight in self._weights.items()}

    def _probe_outputs(self, kinds: frozenset[str]) -> dict[str, Tensor]:
        """Outputs of the probe batch by module, if there are kinds that need them."""
        if not kinds:
            return {}
        if self.probe is None:
            raise ConfigError(f"recorder.kinds={min(kinds)}: needs a probe batch")
        return self._hooks.of_probe(self.probe)

    def _decay_rates(self) -> Mapping[str, float | Tensor]:
        """lr * weight_decay of the weights whose weight decay is decoupled, where it is not 0."""
        if self._optimizer is None:
            return {}
        if not isinstance(self._optimizer, Optimizer):
            return self._optimizer.decay_rates(self.t)
        return _decoupled_decay(self._optimizer, self._weights)

    def _add_weights(self) -> None:
        """Add W_t, and the part of its update that is weight decay: a multiple of it."""
        for name, weight in self._weights.items():
            factors: dict[str, float | Tensor] = {}
            if "param" in self.kinds:
                factors["param"] = weight.mult
            if "decay" in self.kinds and name in self._decay:
                factors["decay"] = -self._decay[name] * weight.mult
            if factors:
                self._rows.add(name, weight.w, factors, weight.batch_dims)

    def _add_changes(self, initial: "_Snapshot", outputs: Mapping[str, Tensor]) -> None:
        """Add how far weights and outputs have moved since training began."""
        if self.t == 0:
            return
        if "change" in self.kinds:
            for name, before in initial.weights.items():
                weight = self._weights[name]
                change = weight.w - before
                self._rows.add(name, change, {"change": weight.mult}, weight.batch_dims)
        if "output_change" in self.kinds:
            for name, before in initial.outputs.items():
                change = outputs[name] - before
                self._rows.add(name, change, {"output_change": 1.0})
        if self.kinds & PARTS:
            self._add_parts(initial, outputs)

    def _add_parts(self, initial: "_Snapshot", outputs: Mapping[str, Tensor]) -> None:
        weights = self._by_parameter(initial)
        for name, parts in self._parts.parts(outputs, initial.outputs, weights):
            if parts.effective.dim() - self._member_axes >= IMAGE_DIMS:
                self._rows.of_images.add(name)
            if "effective" in self.kinds:
                self._rows.add(name, parts.effective, {"effective": 1.0})
            if "propagating" in self.kinds:
                self._rows.add(name, parts.propagating, {"propagating": 1.0})
            if "alignment" in self.kinds and parts.alignment is not None:
                self._rows.add_value("alignment", name, "l1", parts.alignment)

    def _by_parameter(self, snapshot: "_Snapshot") -> dict[nn.Parameter, Tensor]:
        return {self._weights[name].w: value for name, value in snapshot.weights.items()}

    def _add_gradients(self) -> None:
        if "grad" not in self.kinds:
            return
        found = False
        for name, weight in self._weights.items():
            gradient = weight.w.grad
            if gradient is not None:
                found = True
                factor = 1 / (weight.mult * weight.grad)
                self._rows.add(name, gradient, {"grad": factor}, weight.batch_dims)
        if not found:
            raise ConfigError(
                "recorder.kinds=grad: no parameter has a gradient: call end_step before zero_grad"
            )

    def _add_updates(self) -> None:
        """Add the update, and its part that is not weight decay where weight decay is decoupled."""
        for name, before in self._before.weights.items():
            weight = self._weights[name]
            if "gradient_update" in self.kinds and name in self._decay:
                step = _without_decay(weight.w, before, self._decay[name])
                factors = {"gradient_update": weight.mult}
                self._rows.add(name, step, factors, weight.batch_dims)
            if "update" in self.kinds:
                update = weight.w - before
                self._rows.add(name, update, {"update": weight.mult}, weight.batch_dims)

    def _add_output_updates(self) -> None:
        if "action" in self.kinds:
            before = self._by_parameter(self._before)
            for name, action in self._parts.actions(before):
                self._rows.add(name, action, {"action": 1.0})
        outputs = self._probe_outputs(self.kinds & {"output_update"})
        for name, after in outputs.items():
            update = after - self._before.outputs[name]
            self._rows.add(name, update, {"output_update": 1.0})


@dataclass(frozen=True)
class _Weight:
    """A parameter w, of the effective weight `mult * w`.

    Args:
        grad: a factor that its gradient got.
        batch_dims: how many of its first dimensions, after the members of a stack, count matrices.
    """

    w: nn.Parameter
    mult: float = 1.0
    grad: float = 1.0
    batch_dims: int = 0


@dataclass(frozen=True)
class _Snapshot:
    """Copies of the parameters w and of what the modules return for the probe batch, by name."""

    weights: dict[str, Tensor]
    outputs: dict[str, Tensor]


def _tracked_weights(
    model: nn.Module,
    scales: Mapping[str, Scale] | None,
    globs: Iterable[str],
    member_axes: int,
) -> dict[str, _Weight]:
    """The weights that the globs name, with their multipliers."""
    every = {}
    if scales is None:
        for name, w in model.named_parameters():
            module, _ = owner(model, name)
            batch_dims = int(holds_copies(w.shape[member_axes:], module, member_axes))
            every[name] = _Weight(w, batch_dims=batch_dims)
    else:
        for name, w in original_parameters(model, scales).items():
            scale = scales[name]
            every[name] = _Weight(w, scale.mult, scale.grad, scale.batch_dims)
    for name, weight in every.items():
        if hasattr(weight.w, "placements"):  # a DTensor
            raise ConfigError(
                f"recorder: {name} is sharded over processes, of which statistics are not taken; "
                "record on one device, or under DDP"
            )
    names = match_globs("recorder.parameters", globs, every)
    return {name: every[name] for name in names}


def _modules_of_matrices(
    model: nn.Module,
    weights: Mapping[str, _Weight],
    member_axes: int,
    scales: Mapping[str, Scale],
) -> list[str]:
    """The modules that own a weight of two or more dimensions, then each `Multiplier`.

    So do readouts by a shared weight: they have scales by the names of their modules.
    """
    names: dict[str, None] = {}
    for name, weight in weights.items():
        if weight.w.dim() - member_axes - weight.batch_dims >= 2:
            names[name.rpartition(".")[0]] = None
    for name in multipliers(model):
        names[name] = None
    for name, _ in model.named_modules():
        if name in scales:
            names[name] = None
    return list(names)


def _decoupled_decay(
    optimizer: Optimizer, weights: Mapping[str, _Weight]
) -> dict[str, float | Tensor]:
    """lr * weight_decay by name, from the param groups of an optimizer."""
    names = {id(weight.w): name for name, weight in weights.items()}
    rates = {}
    for group in optimizer.param_groups:
        rate = group["lr"] * group["weight_decay"] if group.get("decoupled_weight_decay") else 0
        for w in group["params"]:
            if rate and id(w) in names:
                name = names[id(w)]
                rates[name] = rate
    return rates


def _without_decay(after: Tensor, before: Tensor, rate: float | Tensor) -> Tensor:
    """The update of a weight but for its decay, which is `rate * before`.

    Of a stack the rate is (S,), one for each member.
    """
    if isinstance(rate, Tensor):
        ones = [1] * (after.dim() - 1)
        rate = rate.view(-1, *ones)
    step = after - (1 - rate) * before
    # weight decay alone leaves nothing but rounding
    eps = torch.finfo(after.dtype).eps
    rounding = 2 * eps * before.abs()
    return step.masked_fill_(step.abs() <= rounding, 0)


def _as_list(values: Any) -> list[Any]:
    """A list of one for what is no list, such as the columns of a model that is no stack."""
    return list(values) if isinstance(values, list | tuple) else [values]


def checked_steps(steps: int | Iterable[int], key: str = "recorder.steps") -> int | frozenset[int]:
    """Return steps as `Recorder` takes them; `key` is what an error names.

    Raises:
        ConfigError: unless they are a whole number >= 1, or whole numbers >= 0.
    """
    if isinstance(steps, Iterable) and not isinstance(steps, str):
        listed = list(steps)
        if all(type(step) is int and step >= 0 for step in listed):
            return frozenset(listed)
        steps = listed
    elif type(steps) is int and steps >= 1:
        return steps
    raise ConfigError(f"{key}={steps}: must be a whole number >= 1 or a list of steps, >= 0")


def _known(key: str, names: Iterable[str], known: Mapping[str, Any]) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"recorder.{key}={','.join(unknown)}: must be of {', '.join(known)}")
    return names
