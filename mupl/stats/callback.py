"""The recorder inside a Lightning trainer."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn

from mupl.errors import ConfigError
from mupl.stats.recorder import HasDecayRates, Recorder
from mupl.stats.rows import FORMATS, metrics_by_step


class CoordinateStats(Callback):
    """Record a run with `mupl.stats.recorder.Recorder`, log the values and write their table.

    At each recorded step every logger gets `metrics_by_step`, at the number of updates done; the
    table is written when training ends. Needs a LightningModule with a `model` and with `scales`,
    its own or its `training_setup`'s, such as `mupl.training.module.TrainingModule`. With
    several processes (DDP) the first one records: outputs are of its own first batch.

    Args:
        folder: where the table goes; by default the first logger's, or else the trainer's root.
        file: name of the table; the suffix is .csv or .parquet.
        predict: add what the rule table predicts (columns low, high and zero), for a coordinate
            check.
        along: "width" or "depth": the size that the predicted exponents are powers of.
        effective: record the weights W = mult * w; False: record w, which the optimizer sees, and
            its gradients.
        recorder: arguments of `Recorder`; its probe is by default the inputs of the first training
            batch.

    Raises:
        ConfigError: when training starts, on bad arguments or another kind of LightningModule.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        file: str = "coordinates.csv",
        predict: bool = False,
        along: str = "width",
        effective: bool = True,
        **recorder: Any,
    ) -> None:
        if along not in ("width", "depth"):
            raise ConfigError(f"callbacks.coordinates.along={along}: must be width or depth")
        if Path(file).suffix not in FORMATS:
            raise ConfigError(f"callbacks.coordinates.file={file}: must end in .csv or .parquet")
        known = inspect.signature(Recorder).parameters
        for key in recorder:
            if key not in known:
                raise ConfigError(f"callbacks.coordinates.{key}: must be one of {', '.join(known)}")
        self.folder = folder
        self.file = file
        self.effective = effective
        self.recorder: Recorder | None = None  # of the latest training
        self._predict = predict
        self._along = along
        self._arguments = recorder
        self._rows_logged = 0
        self._begun_at: int | None = None  # global step; None between two optimizer steps

    def stacked(
        self,
        model: nn.Module,
        optimizer: HasDecayRates,
        predict: Sequence[Callable[..., Any]],
        columns: Sequence[Mapping[str, Any]],
    ) -> Recorder:
        """The recorder of a stack, with each member's `expected_exponents` and constant columns.

        A stack has effective weights only, so it has to refuse a callback whose `effective` is
        False.
        """
        expected = [partial(of_member, along=self._along) for of_member in predict]
        arguments = self._arguments | {"columns": list(columns)}
        if self._predict:
            arguments["expected"] = expected
        return Recorder(model, optimizer=optimizer, **arguments)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        setup = getattr(pl_module, "training_setup", pl_module)
        model = getattr(pl_module, "model", None)
        scales = getattr(setup, "scales", None)
        if not isinstance(model, nn.Module) or not isinstance(scales, Mapping):
            raise ConfigError(
                "callbacks: CoordinateStats needs a LightningModule with `model` and `scales` to "
                f"know the effective weights; {type(pl_module).__name__} has not both "
                "(mupl.training.module.TrainingModule has)"
            )
        self.recorder = Recorder(
            model,
            scales if self.effective else None,
            optimizer=trainer.optimizers[0],
            expected=self._prediction(setup),
            **self._arguments,
        )
        self.recorder.t = trainer.global_step
        self._rows_logged = 0
        self._begun_at = None

    def _prediction(self, setup: object) -> Callable[..., Any] | None:
        """The function of a `Setup` that says what must be seen, if that is to be predicted."""
        if not self._predict:
            return None
        expected_exponents = getattr(setup, "expected_exponents", None)
        if expected_exponents is None:
            raise ConfigError(
                "callbacks.coordinates.predict: needs a module that knows what must be seen, such "
                "as mupl.training.module.TrainingModule"
            )
        return partial(expected_exponents, along=self._along)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self.recorder is not None
        if self._begun_at is not None:  # gradients accumulate
            return
        if self.recorder.probe is None:
            has_target = isinstance(batch, tuple | list)
            self.recorder.probe = batch[0] if has_target else batch
        self._begun_at = trainer.global_step
        self.recorder.begin_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.recorder is not None
        if trainer.global_step != self._begun_at:
            self.recorder.end_step()
            self._begun_at = None
            self._log(trainer)
            steps = self.recorder.steps
            if not isinstance(steps, int) and self.recorder.t == max(steps, default=-1) + 1:
                self._write(trainer)  # all there will be, also if the run is killed later

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.recorder is not None
        self.recorder.close()
        self._log(trainer)
        file = self._table_folder(trainer) / self.file
        if self.recorder.rows or not file.exists():  # else a resumed run records nothing more
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        assert self.recorder is not None
        if trainer.is_global_zero:
            folder = self._table_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            self.recorder.write(folder / self.file)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.recorder is not None:
            self.recorder.close()

    def _table_folder(self, trainer: Trainer) -> Path:
        log_dir = trainer.loggers[0].log_dir if trainer.loggers else None
        return Path(self.folder or log_dir or trainer.default_root_dir)

    def _log(self, trainer: Trainer) -> None:
        """Log the rows that are new."""
        assert self.recorder is not None
        rows = self.recorder.rows[self._rows_logged :]
        self._rows_logged += len(rows)
        for step, metrics in metrics_by_step(rows).items():
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)
