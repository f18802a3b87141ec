"""The first steps of a run, recorded: what its certificate is compared with."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from mupl.data.modules import data_module
from mupl.road.configs import resolved, with_values
from mupl.road.recommendation import recorded
from mupl.training.config import build_setup, load_data
from mupl.training.module import TrainingModule
from mupl.training.run import build_trainer, fit

TABLE = "coordinates.csv"


class StopAfter(Callback):
    """Ends a training after some updates, as if its end were still far: schedules stay the same."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: object
    ) -> None:
        if trainer.global_step >= self.updates:
            trainer.should_stop = True


def record_first_steps(config: DictConfig) -> pd.DataFrame:
    """Train the first steps of a config's run, and return a recorder's rows of them."""
    with TemporaryDirectory() as folder:  # of this process, as several may end a sweep at once
        return _record(config, Path(folder))


def _record(config: DictConfig, folder: Path) -> pd.DataFrame:
    config = resolved(config)
    arguments = recorded(config.max_steps)
    coordinates = {
        "_target_": "mupl.stats.callback.CoordinateStats",
        **arguments,
        "columns": {"width": config.width, "seed": config.seed},
        "folder": str(folder),
        "file": TABLE,
    }
    stop = {
        "_target_": "mupl.road.first_steps.StopAfter",
        "updates": max(arguments["steps"]) + 1,
    }
    changed = {
        "callbacks": {"coordinates": coordinates, "stop": stop},
        "trainer.limit_val_batches": 0,
    }
    config = with_values(config, changed)
    seed_everything(config.seed, verbose=False)
    splits = load_data(config)
    data = data_module(splits, batch_size=config.batch_size, seed=config.seed)
    setup = build_setup(config, splits.model_args)
    fit(build_trainer(config, []), TrainingModule(setup), data)
    return pd.read_csv(folder / TABLE)
