"""What loggers are told beside metrics: what is trained, its parametrization, and how it ended.

A run that is alone, each job of a sweep and each member of a stack is one run of its loggers, and
ends there when it ends here. A logger that is not named here gets metrics and the config, as
Lightning gives them.
"""

import math
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from mupl.errors import ConfigError
from mupl.identity import OUTCOMES
from mupl.training.keys import quieten

Row = Mapping[str, Any]
FAILED = "failed"
NESTED = ("config", "choices")  # entries of a row that hold many settings


class RunLog:
    """The loggers of one run.

    Args:
        entries: of the run's config, by name.
        row: all but the outcome of the run's row of results; see `mupl.identity.job_row`.
    """

    def __init__(self, entries: Mapping[Any, Any], row: Row) -> None:
        self.loggers: list[Logger] = [instantiate(entry) for entry in entries.values()]
        self._config = {key: value for key, value in row.items() if key != "provenance"}
        self._begun = False

    def begin(self, parametrization: Sequence[Row]) -> None:
        """Say what is trained, before the first metrics.

        Args:
            parametrization: of `mupl.parametrization.scales.scale_rows`; empty if the run failed
                before it was known.

        Raises:
            ConfigError: if W&B refuses its key, or cannot be reached.
        """
        self._begun = True
        for logger in self.loggers:
            _begin(logger, self._config, parametrization)

    def end(self, row: Row) -> None:
        """Say how the run ended, and end it.

        Args:
            row: of the run's results.
        """
        if not self._begun:
            self.begin([])
        outcome = {key: row[key] for key in OUTCOMES if row.get(key) is not None}
        for logger in self.loggers:
            _end(logger, self._config, outcome)


@singledispatch
def _begin(logger: Logger, config: Row, parametrization: Sequence[Row]) -> None:
    logger.log_hyperparams(dict(config))


@singledispatch
def _end(logger: Logger, config: Row, outcome: Row) -> None:
    logger.save()
    logger.finalize(outcome["status"])


@_begin.register
def _(logger: CSVLogger, config: Row, parametrization: Sequence[Row]) -> None:
    """The config and the parametrization are files in the run's folder."""


@_begin.register
def _(logger: WandbLogger, config: Row, parametrization: Sequence[Row]) -> None:
    import wandb

    quieten()
    try:
        logger.log_hyperparams(dict(config))
    except wandb.Error as error:  # such as a key that W&B refuses, or no network
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"logger=wandb: {reason}; logger.wandb.offline=true needs none"
        ) from error
    if parametrization:
        columns: list[Any] = [*parametrization[0]]
        values: list[Any] = [[*row.values()] for row in parametrization]
        table = wandb.Table(columns, values, allow_mixed_types=True)
        logger.experiment.log({"parametrization": table}, commit=False)  # with the first metrics


@_end.register
def _(logger: WandbLogger, config: Row, outcome: Row) -> None:
    logger.experiment.summary.update(dict(outcome))
    # else the next logger of this process would go on with this run
    logger.experiment.finish(exit_code=int(outcome["status"] == FAILED))


@_begin.register
def _(logger: TensorBoardLogger, config: Row, parametrization: Sequence[Row]) -> None:
    if parametrization:
        logger.experiment.add_text("parametrization", _markdown(parametrization))


@_end.register
def _(logger: TensorBoardLogger, config: Row, outcome: Row) -> None:
    """Log settings and outcome at once, as the HPARAMS page wants them."""
    numbers = {key: value for key, value in outcome.items() if isinstance(value, int | float)}
    settings = {key: _plain(value) for key, value in config.items() if key not in NESTED}
    settings["status"] = outcome["status"]
    logger.log_hyperparams(settings, {f"end/{key}": value for key, value in numbers.items()})
    logger.save()
    logger.finalize(outcome["status"])


@_begin.register
def _(logger: MLFlowLogger, config: Row, parametrization: Sequence[Row]) -> None:
    logger.log_hyperparams({key: _plain(config[key]) for key in config if key not in NESTED})
    client = logger.experiment
    run = logger.run_id
    client.log_dict(run, dict(config["config"]), "config.yaml")
    if parametrization:
        columns: dict[str, list[Any]] = {}
        for name in parametrization[0]:
            columns[name] = [row[name] for row in parametrization]
        client.log_table(run, columns, "parametrization.json")


@_end.register
def _(logger: MLFlowLogger, config: Row, outcome: Row) -> None:
    client = logger.experiment
    run = logger.run_id
    for key, value in outcome.items():
        if not isinstance(value, int | float):
            client.set_tag(run, key, str(value))
        elif math.isfinite(value):
            client.log_metric(run, f"end/{key}", value)
    logger.finalize("failed" if outcome["status"] == FAILED else "success")


def _plain(value: Any) -> Any:
    """Return a number or a text as it is, and anything else as text."""
    return value if isinstance(value, int | float | str) else str(value)


def _markdown(rows: Sequence[Row]) -> str:
    """Lay out rows of equal keys as a table in Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)
