"""Rows of statistics of a training run, the same numbers under every parametrization."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.nn.initialize import parameters as original_parameters
from mupl.parametrization.exponents import UNKNOWN, Expected
from mupl.parametrization.scales import Scale
from mupl.roles import multipliers
from mupl.stacked.optimizer import StackedOptimizer
from mupl.stats.reductions import ITERATIONS, ITERATIONS_GAP, STATISTICS, TensorReductions, measure

if TYPE_CHECKING:
    import pandas as pd

# kind -> iterations of the spectral norm
KINDS = {
    "output": ITERATIONS,  # what a layer returns: pre-activations
    "param": ITERATIONS,  # W_t
    "update": ITERATIONS_GAP,  # W_(t+1) - W_t
    "gradient_update": ITERATIONS_GAP,  # the same without decoupled weight decay; only where there is some
    "decay": ITERATIONS,  # the rest of it, -lr * weight_decay * W_t; only where there is some
    "change": ITERATIONS_GAP,  # W_t - W_0
    "grad": ITERATIONS_GAP,  # of the loss with respect to W_t, as the optimizer sees it: clipped
    "output_grad": ITERATIONS_GAP,  # of the loss with respect to what a layer returns
    "output_update": ITERATIONS,  # of the probe batch: output after update t minus that before
    "output_change": ITERATIONS,  # of the probe batch: output at t minus that before training
}
COLUMNS = ("t", "kind", "name", "statistic", "value")
Predict = Callable[[int, bool], Mapping[tuple[str, str], Expected]]


class Recorder:
    """Statistics of a model at each step t, t being the number of updates done.

    Weights are effective ones, `W = mult * w`. Two calls frame a step of any loop:

        with Recorder(model, scales, steps=[0, 1, 2]) as recorder:
            for x, y in batches:
                recorder.begin_step()
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                recorder.end_step()
        recorder.write("coordinates.csv")

    Rows at t are of the weights after t updates, of the outputs and gradients that they give, and of the update that
    follows, from t to t + 1. Of a module that is called several times in a step the last call counts. All values of a
    step go to the host in one transfer. A spectral norm has a relative error of 1e-3; it is up to 6 % too small for an
    update that is weight decay alone.

    Args:
        model: any module.
        scales: what `initialize_` was given; None: every parameter is an effective weight.
        kinds: of `KINDS`.
        statistics: of `mupl.stats.reductions.STATISTICS`; those of matrices are taken of tensors of two or more
            dimensions, as matrices (shape[0], rest).
        steps: the values of t to record, or n for every n-th.
        parameters: globs on parameter names.
        modules: globs on module names, for outputs; by default the modules that own parameters of two or more
            dimensions, and each `Multiplier`.
        probe: input of the model for `output_update` and `output_change`, seen in eval mode; may be set later.
        columns: constants to put into each row, such as width and seed.
        optimizer: for `gradient_update` and `decay`, which need its lr and weight_decay.
        expected: (t, whether weight decay is decoupled) -> by (kind, name) the exponent of width that must be seen
            (`TrainingModule.expected_exponents`); adds the columns low, high and zero to the rows.
        members: of a stack, whose tensors and outputs have a leading member axis and whose weights are effective: the
            columns of each member; then `expected` is a list of one a member too.

    Attributes:
        rows: dicts of the constants and `COLUMNS`; `name` is that of the parameter or module.
        t: set it before the first step where training continues.

    Raises:
        ConfigError: on an unknown kind or statistic, a glob without a match, and by a step: no probe, no gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        scales: Mapping[str, Scale] | None = None,
        *,
        kinds: Iterable[str] = ("output", "param", "update"),
        statistics: Iterable[str] = ("l1",),
        steps: int | Sequence[int] = 1,
        parameters: Sequence[str] = ("*",),
        modules: Sequence[str] | None = None,
        probe: Any = None,
        columns: Mapping[str, Any] | None = None,
        optimizer: Optimizer | StackedOptimizer | None = None,
        expected: Predict | Sequence[Predict] | None = None,
        members: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.model, self.probe = model, probe
        self.members = [
            {**(columns or {}), **member} for member in ([{}] if members is None else members)
        ]
        self._member_axes = 0 if members is None else 1
        self.kinds = frozenset(_known("kinds", kinds, KINDS))
        self.statistics = _known("statistics", statistics, STATISTICS)
        self.steps = steps if isinstance(steps, int) else frozenset(steps)
        if self.steps == 0:
            raise ConfigError("recorder.steps=0: must be a whole number >= 1 or a list of steps")
        self.rows: list[dict[str, Any]] = []
        self.t = 0
        weights = (
            dict(model.named_parameters()) if scales is None else original_parameters(model, scales)
        )
        self._weights = {name: weights[name] for name in _select("parameters", parameters, weights)}
        self._mult = {name: 1.0 if scales is None else scales[name].mult for name in self._weights}
        self._grad = {name: 1.0 if scales is None else scales[name].grad for name in self._weights}
        all_modules = dict(model.named_modules())
        matrices = [name for name, w in self._weights.items() if w.dim() - self._member_axes >= 2]
        factors = multipliers(model)
        owners = dict.fromkeys([*(name.rpartition(".")[0] for name in matrices), *factors])
        names = owners if modules is None else _select("modules", modules, all_modules)
        self._hooks = [
            all_modules[name].register_forward_hook(partial(self._hook, name)) for name in names
        ]
        self._optimizer = optimizer
        self._expected = [expected] if callable(expected) else expected
        self._sink: Callable[[str, Tensor], None] | None = (
            None  # takes outputs where they are wanted
        )
        self._backward = False  # whether gradients of outputs are wanted
        self._initial: dict[str, dict[str, Tensor]] | None = (
            None  # by kind: weights and outputs before training
        )
        self._decay: Mapping[
            str, float | Tensor
        ] = {}  # lr * weight_decay of the update that follows
        self._before: dict[
            str, Tensor
        ] = {}  # weights before the update, in memory that is used again
        self._outputs_before: dict[str, Tensor] = {}
        self._pending: dict[
            tuple[int, str, str, str], Tensor
        ] = {}  # values on the device, (S) of a stack

    @torch.no_grad()
    def begin_step(self) -> None:
        """Call before the forward pass."""
        wanted = self.wanted(self.t)
        outputs: dict[str, Tensor] = {}
        if wanted or self._initial is None:
            outputs = self._probe_outputs("output_change", *["output_update"] * wanted)
        if self._initial is None:
            self._initial = {
                "change": {n: w.clone() for n, w in self._weights.items()}
                if "change" in self.kinds
                else {},
                "output_change": outputs if "output_change" in self.kinds else {},
            }
        if not wanted:
            return
        self._decay = self._decay_rates()  # here, as a scheduler may step before `end_step`
        if {"param", "decay"} & self.kinds:
            for name, w in self._weights.items():
                self._add_weight(name, w)
        if self.t > 0:
            for kind, values in (("change", self._weights), ("output_change", outputs)):
                for name, initial in self._initial[kind].items():
                    self._add(kind, name, values[name] - initial, self._mult.get(name, 1.0))
        if {"update", "gradient_update"} & self.kinds:
            self._before = self._before or {
                name: torch.empty_like(w) for name, w in self._weights.items()
            }
            torch._foreach_copy_(list(self._before.values()), list(self._weights.values()))
        self._outputs_before = outputs
        if "output" in self.kinds:
            self._sink = partial(self._add, "output")
        self._backward = "output_grad" in self.kinds

    @torch.no_grad()
    def end_step(self) -> None:
        """Call after the optimizer step, before gradients are set to zero again."""
        self._sink, self._backward = None, False
        if self.wanted(self.t):
            self._add_gradients()
            for name, before in self._before.items():
                w, mult = self._weights[name], self._mult[name]
                if "gradient_update" in self.kinds and name in self._decay:
                    rate = self._decay[name]
                    if isinstance(rate, Tensor):
                        rate = rate.view(-1, *[1] * (w.dim() - 1))
                    step = w - (1 - rate) * before
                    rounding = (
                        2 * torch.finfo(w.dtype).eps * before.abs()
                    )  # what weight decay alone leaves
                    self._add(
                        "gradient_update", name, step.masked_fill_(step.abs() <= rounding, 0), mult
                    )
                if (
                    "update" in self.kinds
                ):  # the copy is written anew at the next step: no other memory
                    self._add("update", name, torch.sub(w, before, out=before), mult)
            for name, after in self._probe_outputs("output_update").items():
                self._add("output_update", name, after - self._outputs_before[name])
            self._flush()
        self.t += 1

    def close(self) -> None:
        """Remove the hooks and delete_state the copies of weights."""
        for hook in self._hooks:
            hook.remove()
        self._initial, self._before = None, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def rows_of(self, member: int) -> list[dict[str, Any]]:
        """The rows of one member of a stack."""
        return self.rows[member :: len(self.members)]

    def frame(self, member: int = 0) -> "pd.DataFrame":
        """The rows, of one member, as a table."""
        import pandas as pd

        predicted = [] if self._expected is None else [field.name for field in fields(Expected)]
        return pd.DataFrame(
            self.rows_of(member), columns=[*self.members[member], *COLUMNS, *predicted]
        )

    def write(self, path: Path | str, member: int = 0) -> None:
        """Write the table, of one member, as csv or parquet by the suffix; the file is there whole or not at all.

        Raises:
            ConfigError: on another suffix.
        """
        path = Path(path)
        frame = self.frame(member)
        contents: dict[str, Callable[..., Any]] = {
            ".csv": frame.to_csv,
            ".parquet": frame.to_parquet,
        }
        if path.suffix not in contents:
            raise ConfigError(f"file={path.name}: must end in {' or '.join(contents)}")
        write_atomically(path, contents[path.suffix](index=False))

    def wanted(self, t: int) -> bool:
        """Whether step t is one that `steps` names."""
        return t % self.steps == 0 if isinstance(self.steps, int) else t in self.steps

    def _decay_rates(self) -> Mapping[str, float | Tensor]:
        """lr * weight_decay of the tensors whose weight decay is decoupled, where it is not 0."""
        if self._optimizer is None:
            return {}
        if isinstance(self._optimizer, StackedOptimizer):
            return self._optimizer.decay_rates(self.t)
        groups = [
            g
            for g in self._optimizer.param_groups
            if g.get("decoupled_weight_decay") and g["weight_decay"]
        ]
        rates = {
            id(w): group["lr"] * group["weight_decay"] for group in groups for w in group["params"]
        }
        return {name: rates[id(w)] for name, w in self._weights.items() if id(w) in rates}

    def _add_weight(self, name: str, w: Tensor) -> None:
        """Rows of W_t, and of the part of its update that is weight decay: a multiple of it."""
        mult, measured = self._mult[name], TensorReductions(w, self._member_axes, KINDS["param"])
        if "param" in self.kinds:
            self._add_measured("param", name, measured, mult)
        if "decay" in self.kinds and name in self._decay:
            self._add_measured("decay", name, measured, -self._decay[name] * mult)

    def _add_gradients(self) -> None:
        if "grad" not in self.kinds:
            return
        gradients = {name: w.grad for name, w in self._weights.items() if w.grad is not None}
        if not gradients:
            raise ConfigError(
                "recorder.kinds=grad: no parameter has a gradient: call end_step before zero_grad"
            )
        for name, gradient in gradients.items():
            self._add("grad", name, gradient, 1 / (self._mult[name] * self._grad[name]))

    def _probe_outputs(self, *kinds: str) -> dict[str, Tensor]:
        """Outputs of the probe batch by module, if one of these kinds is wanted."""
        if self.kinds.isdisjoint(kinds):
            return {}
        if self.probe is None:
            raise ConfigError(f"recorder.kinds={kinds[0]}: needs a probe batch")
        outputs: dict[str, Tensor] = {}
        training = [module for module in self.model.modules() if module.training]
        self._sink = lambda name, output: outputs.__setitem__(
            name, output.clone()
        )  # the next layer may overwrite it
        self.model.eval()
        self.model(self.probe)
        for module in training:
            module.training = True
        self._sink = None
        return outputs

    def _hook(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        if self._sink is None and not self._backward:
            return
        while isinstance(output, tuple | list):  # (activations, state or attention weights)
            output = output[0]
        if not isinstance(output, Tensor):
            raise ConfigError(
                f"recorder.modules: {name!r} returns a {type(output).__name__}, not a tensor"
            )
        if self._sink is not None:
            self._sink(name, output.detach())
        if self._backward and output.requires_grad:
            output.register_hook(partial(self._add, "output_grad", name))

    def _add(self, kind: str, name: str, x: Tensor, factor: float | Tensor = 1.0) -> None:
        """Statistics of `factor * x` at t."""
        self._add_measured(kind, name, TensorReductions(x, self._member_axes, KINDS[kind]), factor)

    def _add_measured(
        self, kind: str, name: str, measured: TensorReductions, factor: float | Tensor
    ) -> None:
        for statistic, value in measure(measured, self.statistics).items():
            self._pending[self.t, kind, name, statistic] = (
                STATISTICS[statistic].scale(factor) * value
            )

    def _flush(self) -> None:
        """Move the values to the host: the only synchronisation of a step."""
        if not self._pending:
            return
        expected = (
            None
            if self._expected is None
            else [e(self.t, bool(self._decay)) for e in self._expected]
        )
        values = torch.stack(list(self._pending.values())).view(len(self._pending), -1).tolist()
        for key, of_members in zip(self._pending, values, strict=True):
            for i, value in enumerate(of_members):
                row = {**self.members[i], **dict(zip(COLUMNS, (*key, value), strict=True))}
                self.rows.append(
                    row if expected is None else row | asdict(expected[i].get(key[1:3], UNKNOWN))
                )
        self._pending.clear()


def metrics_by_step(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """A recorder's rows as metrics for loggers: `KIND/NAME/STATISTIC`, e.g. `output/layers.0/l1`."""
    metrics: dict[int, dict[str, float]] = {}
    for row in rows:
        metrics.setdefault(row["t"], {})[f"{row['kind']}/{row['name']}/{row['statistic']}"] = row[
            "value"
        ]
    return metrics


def _known(key: str, names: Iterable[str], known: Mapping[str, Any]) -> tuple[str, ...]:
    names = tuple(names)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"recorder.{key}={','.join(unknown)}: must be of {', '.join(known)}")
    return names


def _select(key: str, globs: Iterable[str], names: Iterable[str]) -> list[str]:
    names, globs = list(names), list(globs)
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise ConfigError(f"recorder.{key}: {glob!r} matches none of {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]
