"""From tensors to rows of a table: one row for each statistic of each tensor."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mupl.errors import ConfigError
from mupl.files import write_atomically
from mupl.nn.spectral_norm import ITERATIONS, ITERATIONS_GAP
from mupl.parametrization.exponents import ENTRIES, UNKNOWN, Expected
from mupl.stats.reductions import STATISTICS, TensorReductions, measure

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".parquet")  # of tables, by suffix
# Kind of tensor -> iterations of its spectral norm
KINDS = {
    "output": ITERATIONS,  # what a module returns: pre-activations
    "param": ITERATIONS,  # W_t
    "update": ITERATIONS_GAP,  # W_(t+1) - W_t
    "gradient_update": ITERATIONS_GAP,  # update without decoupled weight decay, if there is some
    "decay": ITERATIONS,  # the rest of the update: -lr * weight_decay * W_t, if there is some
    "change": ITERATIONS_GAP,  # W_t - W_0
    "grad": ITERATIONS_GAP,  # d loss / d W_t as the optimizer sees it: clipped
    "output_grad": ITERATIONS_GAP,  # d loss / d output
    "output_update": ITERATIONS,  # of the probe batch: output after update t minus output before
    "output_change": ITERATIONS,  # of the probe batch: output at t minus output before training
    # The next four are of the probe batch, as `mupl.stats.parts.OutputParts` defines them
    "action": ITERATIONS_GAP,  # (W_(t+1) - W_t) x_t
    "effective": ITERATIONS_GAP,  # (W_t - W_0) x_t
    "propagating": ITERATIONS,  # W_0 (x_t - x_0)
    "alignment": ITERATIONS,  # RMS((W_t - W_0) x_t) / (RMS(W_t - W_0) RMS(x_t)), a number
    "logits": ITERATIONS,  # what the model returns, by the name `MODEL_OUTPUT`
    "attention_logits": ITERATIONS,  # scaled products q.k; by the module that takes their softmax
}
COLUMNS = ("t", "kind", "name", "statistic", "value")
# What must be seen, by kind and name, where the name "*" stands for all others; of norms of
# matrices by kind, name and statistic
Prediction = Mapping[tuple[str, ...], Expected]
# Of t, whether weight decay is decoupled, and by keyword `gradients`, mean |d loss / d W| by name,
# and `of_images`, the modules that return images
Predict = Callable[..., Prediction]
Row = dict[str, Any]


class StatisticRows:
    """Measure tensors of a step, and keep the values as rows.

    Values stay on the device until `finish_step`, which moves all of them to the host in one
    transfer.

    Args:
        statistics: of `mupl.stats.reductions.STATISTICS`.
        columns: constants of each member of a stack; one entry for a model alone.
        member_axes: 1 if tensors have a leading member axis, else 0.
        expected: one function for each member, if the rows are to hold what must be seen.

    Attributes:
        rows: of all members in turn; rows of one value stand beside one another.
        of_images: modules that were seen to return images, by name.
    """

    def __init__(
        self,
        statistics: Sequence[str],
        columns: Sequence[Mapping[str, Any]],
        member_axes: int,
        expected: Sequence[Predict] | None,
    ) -> None:
        self.rows: list[Row] = []
        self.of_images: set[str] = set()
        self._statistics = statistics
        self._columns = columns
        self._member_axes = member_axes
        self._expected = expected
        self._values: dict[tuple[str, str, str], Tensor] = {}  # (), or (S,) of a stack

    def add(
        self,
        name: str,
        x: Tensor,
        factors: Mapping[str, float | Tensor],
        batch_dims: int = 0,
    ) -> None:
        """Measure `factor * x` for each kind in `factors`.

        A factor may be (S,), with a number for each member. The tensor is reduced once, however
        many kinds are multiples of it. Its first `batch_dims` dimensions count matrices.
        """
        iterations = max(KINDS[kind] for kind in factors)
        reductions = TensorReductions(x, self._member_axes, iterations, batch_dims)
        measured = measure(reductions, self._statistics)
        for kind, factor in factors.items():
            for statistic, value in measured.items():
                scale = STATISTICS[statistic].scale(factor)
                self._values[kind, name, statistic] = scale * value

    def add_value(self, kind: str, name: str, statistic: str, value: Tensor) -> None:
        """Add a statistic that is measured already: (), or of a stack (S,)."""
        self._values[kind, name, statistic] = value

    def finish_step(self, t: int, decoupled_decay: bool) -> None:
        """Make rows of all that was added: the only synchronisation of a step."""
        if not self._values:
            return
        values = torch.stack(list(self._values.values()))
        values = values.view(len(values), -1)  # of one model too (values, members)
        by_key = dict(zip(self._values, values.tolist(), strict=True))
        predictions = self._predictions(t, decoupled_decay, by_key)
        for key, of_members in by_key.items():
            kind, name, statistic = key
            for member, value in enumerate(of_members):
                row = dict(self._columns[member])
                row["t"] = t
                row["kind"] = kind
                row["name"] = name
                row["statistic"] = statistic
                row["value"] = value
                if predictions is not None:
                    row |= asdict(_expected(predictions[member], *key))
                self.rows.append(row)
        self._values = {}

    def _predictions(
        self, t: int, decoupled_decay: bool, values: Mapping[tuple[str, str, str], list[float]]
    ) -> list[Prediction] | None:
        if self._expected is None:
            return None
        gradients_of = {}
        for (kind, name, statistic), of_members in values.items():
            if kind == "grad" and statistic in ENTRIES:
                gradients_of[name] = of_members
        predictions = []
        for member, predict in enumerate(self._expected):
            gradients = {name: of_members[member] for name, of_members in gradients_of.items()}
            seen = {"gradients": gradients, "of_images": self.of_images}
            predictions.append(predict(t, decoupled_decay, **seen))
        return predictions

    def rows_of(self, member: int) -> list[Row]:
        """The rows of one member of a stack."""
        return self.rows[member :: len(self._columns)]

    def frame(self, member: int) -> "pd.DataFrame":
        """The rows of one member as a table."""
        import pandas as pd

        columns = [*self._columns[member], *COLUMNS]
        if self._expected is not None:
            columns += [field.name for field in fields(Expected)]
        rows = self.rows_of(member)
        return pd.DataFrame(rows, columns=columns)

    def write(self, path: Path, member: int) -> None:
        """Write the table of one member as csv or parquet, by the suffix."""
        frame = self.frame(member)
        if path.suffix == ".csv":
            write_atomically(path, frame.to_csv(index=False))
        elif path.suffix == ".parquet":
            write_atomically(path, frame.to_parquet(index=False))
        else:
            raise ConfigError(f"file={path.name}: must end in .csv or .parquet")


def _expected(prediction: Prediction, kind: str, name: str, statistic: str) -> Expected:
    """Look up what must be seen; what has no prediction is not judged."""
    if statistic not in ENTRIES:
        return prediction.get((kind, name, statistic), UNKNOWN)
    of_others = prediction.get((kind, "*"), UNKNOWN)
    return prediction.get((kind, name), of_others)


def metrics_by_step(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """A recorder's rows as metrics for loggers, by step, under names KIND_STATISTIC/NAME.

    Dashboards make a section of what is before the slash: all tensors of one statistic.

    >>> row = {"t": 3, "kind": "output", "name": "layers.0", "statistic": "l1", "value": 0.8}
    >>> metrics_by_step([row])
    {3: {'output_l1/layers.0': 0.8}}
    """
    metrics: dict[int, dict[str, float]] = {}
    for row in rows:
        name = f"{row['kind']}_{row['statistic']}/{row['name']}"
        metrics.setdefault(row["t"], {})[name] = row["value"]
    return metrics
