"""The recorder inside a Lightning trainer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn

from mupl.errors import ConfigError
from mupl.stacked.optimizer import StackedOptimizer
from mupl.stacked.rules import NotStackable
from mupl.stats.recorder import Recorder, metrics_by_step


class CoordinateStats(Callback):
    """Records a run with `mupl.stats.recorder.Recorder`, logs the values and writes their table.

    At each recorded step every logger gets `metrics_by_step`, at the number of updates done; the table is written when
    training ends. Needs a LightningModule with attributes `model` and `scales`, such as
    `mupl.training.module.TrainingModule`.

    Args:
        folder: where the table goes; by default the first logger's, or else the trainer's root.
        file: name of the table; the suffix is .csv or .parquet.
        predict: add what the rule table predicts (columns low, high and zero), for a coordinate check.
        along: "width" or "depth", of which the prediction is.
        effective: of weights W = mult * w; False: of w, which the optimizer sees, and its gradients.
        recorder: arguments of `Recorder`; its probe is by default the inputs of the first training batch.

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
        self.folder, self.file, self._predict, self._arguments = folder, file, predict, recorder
        self._along, self._effective = along, effective
        self.recorder: Recorder | None = None  # of the latest training
        self._logged = 0  # rows that the loggers have
        self._begun_at: int | None = None  # global step; None between two optimizer steps

    def stacked(
        self,
        model: nn.Module,
        optimizer: StackedOptimizer,
        predict: Sequence[Callable[..., Any]],
        members: Sequence[Mapping[str, Any]],
    ) -> Recorder:
        """The recorder of a stack, with each member's `expected_exponents` and constant columns.

        Raises:
            NotStackable: if weights are not to be effective ones.
        """
        if not self._effective:
            raise NotStackable(
                "callbacks.coordinates.effective=false: a stack has effective weights only"
            )
        return Recorder(
            model,
            optimizer=optimizer,
            expected=[partial(of_member, along=self._along) for of_member in predict]
            if self._predict
            else None,
            **self._arguments | {"members": members, "columns": None},
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model, scales = (getattr(pl_module, name, None) for name in ("model", "scales"))
        if model is None or scales is None:
            raise ConfigError(
                f"callbacks: CoordinateStats needs a LightningModule with `model` and `scales` to know the effective "
                f"weights; {type(pl_module).__name__} has not both (mupl.training.module.TrainingModule has)"
            )
        predict: Any = getattr(pl_module, "expected_exponents", None)
        self.recorder = Recorder(
            model,
            scales if self._effective else None,
            optimizer=trainer.optimizers[0],
            expected=partial(predict, along=self._along) if self._predict else None,
            **self._arguments,
        )
        self.recorder.t = trainer.global_step
        self._logged, self._begun_at = 0, None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self.recorder is not None
        if self._begun_at is not None:  # gradients accumulate
            return
        if self.recorder.probe is None:
            self.recorder.probe = batch[0] if isinstance(batch, tuple | list) else batch
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

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.recorder is not None
        self.recorder.close()
        self._log(trainer)
        if trainer.is_global_zero:
            logger = trainer.loggers[0] if trainer.loggers else None
            folder = Path(self.folder or (logger and logger.log_dir) or trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.recorder.write(folder / self.file)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.recorder is not None:
            self.recorder.close()

    def _log(self, trainer: Trainer) -> None:
        assert self.recorder is not None
        rows = self.recorder.rows[self._logged :]
        self._logged += len(rows)
        for step, metrics in metrics_by_step(rows).items():
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)
