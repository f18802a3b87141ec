"""The learning-rate finder, and what would undo a parametrization's learning rates."""

import math
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from mupl.data import digits
from mupl.data.modules import TensorData
from mupl.errors import ConfigError
from mupl.models import MLP
from mupl.optim.schedules import Schedule
from mupl.training.callbacks import LossRecord
from mupl.training.lr_finder import LRSearch, RangeTest, find_lr
from mupl.training.module import TrainingModule
from mupl.training.setup import Setup
from tests.resuming import trainer


def module(lr: float = 0.01, optimizer: str = "muon", **options: object) -> TrainingModule:
    build = partial(MLP, 64, 10)
    return TrainingModule(Setup(build, 64, base_width=16, lr=lr, optimizer=optimizer, **options))


def data() -> TensorData:
    return TensorData(digits(), batch_size=64)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_found_trains_well_and_the_module_stays_as_it_was(
    tmp_path: Path, optimizer: str
) -> None:
    tuned = module(optimizer=optimizer)
    before = {key: value.clone() for key, value in tuned.state_dict().items()}
    search = find_lr(
        tuned, data(), low=1e-5, high=10, steps=60, default_root_dir=tmp_path, accelerator="cpu"
    )
    assert all(torch.equal(value, before[key]) for key, value in tuned.state_dict().items())
    assert type(tuned.training_setup.schedule).__name__ == "Schedule"
    assert search.lrs[0] == 1e-5
    assert len(search.lrs) == len(search.losses) > 20
    found = search.suggestion()
    assert 1e-3 < found < 1
    record = LossRecord()
    trainer(max_steps=40, callbacks=[record]).fit(module(found, optimizer), datamodule=data())
    assert record.outcome()["train_loss"] < 0.5 * record.losses[0]


class LearningRates(Callback):
    """Notes the learning rates of the first two param groups at each update."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        first, second, *_ = (group["lr"] for group in optimizer.param_groups)
        self.seen.append((first, second))


def test_the_search_keeps_the_ratios_between_groups(tmp_path: Path) -> None:
    """Whatever the module's own schedule, and where gradients accumulate."""
    tuned = module(optimizer="adamw", schedule=Schedule("linear", warmup=0.5))
    optimizer = tuned.training_setup.optimizer()
    first, second, *_ = (group["lr"] for group in optimizer.param_groups)
    assert first != second
    lrs = LearningRates()
    test = RangeTest([10.0**k for k in range(-2, 3)])
    options = {"max_steps": 5, "accumulate_grad_batches": 2, "limit_val_batches": 0}
    trainer(default_root_dir=tmp_path, callbacks=[test, lrs], **options).fit(
        tuned, datamodule=data()
    )
    assert [a for a, b in lrs.seen] == pytest.approx([first * 10.0**k for k in range(-2, 3)])
    assert [b / a for a, b in lrs.seen] == pytest.approx([second / first] * 5)


def test_callbacks_of_the_user_are_kept(tmp_path: Path) -> None:
    lrs = LearningRates()
    options = {"low": 0.001, "high": 0.1, "steps": 3, "accelerator": "cpu"}
    search = find_lr(module(), data(), default_root_dir=tmp_path, callbacks=[lrs], **options)
    assert len(search.losses) == len(lrs.seen) == 3


def test_the_suggestion_is_where_the_loss_falls_most_steeply() -> None:
    lrs = [10 ** (k / 10 - 4) for k in range(40)]
    losses = [2 - math.tanh(k - 20) for k in range(40)]
    assert LRSearch(lrs, losses).suggestion(smoothing=0) == pytest.approx(lrs[20], rel=0.3)
    with pytest.raises(ConfigError, match="the loss does not fall"):
        LRSearch([1, 2, 3], [1, 1, 2]).suggestion()
    with pytest.raises(ConfigError, match="must be 0 < low < high"):
        find_lr(module(), data(), low=1, high=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_noise_before_the_average_has_its_window_is_not_taken_for_the_steepest_fall(
    seed: int,
) -> None:
    noise = random.Random(seed)
    lrs = [10 ** (k / 10 - 5) for k in range(60)]
    losses = [2.3 - 0.04 * max(0, k - 20) + noise.gauss(0, 0.05) for k in range(60)]
    assert LRSearch(lrs, losses).suggestion() > lrs[20]


def test_a_curve_that_is_shorter_than_the_window_or_falls_only_before_it_has_a_suggestion() -> None:
    lrs = [10 ** (k / 10 - 5) for k in range(16)]
    losses = [3.0, 2.9, 2.0, 1.9, *range(3, 15)]
    assert LRSearch(lrs[:4], losses[:4]).suggestion() == lrs[1]
    assert LRSearch(lrs, losses).suggestion() == lrs[1]
    with pytest.raises(ConfigError, match=r"smoothing=1: must be in \[0, 1\)"):
        LRSearch(lrs, losses).suggestion(smoothing=1)


def test_lightnings_finder_is_blocked(tmp_path: Path) -> None:
    options = {"default_root_dir": tmp_path, "max_steps": 3}
    with pytest.raises(ConfigError, match=r"sets all param groups to one lr.*find_lr"):
        Tuner(trainer(**options)).lr_find(module(), datamodule=data(), num_training=3)
    with pytest.raises(ConfigError, match="find_lr"):
        trainer(callbacks=[LearningRateFinder()], **options).fit(module(), datamodule=data())


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_checkpoint_resumes_its_own_run_and_no_other(tmp_path: Path) -> None:
    batch = next(iter(data().train_dataloader()))

    def fit(trained: TrainingModule, steps: int, **checkpoint: object) -> torch.Tensor:
        used = trainer(default_root_dir=tmp_path, max_steps=steps, log_every_n_steps=1)
        loader = DataLoader([batch], batch_size=None)
        used.fit(trained, loader, loader, weights_only=False, **checkpoint)
        used.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return trained.model.readout.weight.detach()

    fit(module(), 4)
    resumed = fit(module(), 8, ckpt_path=tmp_path / "4.ckpt")
    assert torch.equal(resumed, fit(module(), 8))
    with pytest.raises(ConfigError, match=r"it was saved under lr=0\.01 \(now 0\.02\)"):
        fit(module(lr=0.02), 8, ckpt_path=tmp_path / "4.ckpt")
