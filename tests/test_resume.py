"""Checkpoints go on under the setup that saved them, or say what differs."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mupl.data import digits
from mupl.data.modules import TensorData
from mupl.errors import ConfigError
from mupl.models import MLP
from mupl.optim.schedules import Schedule
from mupl.parametrization.rules import get_parametrization
from mupl.training.module import TrainingModule
from mupl.training.setup import Setup
from tests.resuming import trainer, whole_and_resumed

# the callback that saved a checkpoint is not there when it is loaded
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
]

SAVED_AT = 5
STEPS = 10
COSINE = Schedule("cosine", warmup=0.2)


def module(resume: str = "strict", **options: Any) -> TrainingModule:
    values = {"base_width": 16, "lr": 0.01, "schedule": COSINE} | options
    return TrainingModule(Setup(partial(MLP, 64, 10), 32, **values), resume)


def data() -> TensorData:
    return TensorData(digits(), batch_size=64)


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Train a module for half of the steps, and return its checkpoint."""

    def save(**options: Any) -> Path:
        file = tmp_path / f"step={SAVED_AT}.ckpt"
        file.unlink(missing_ok=True)  # else the callback takes another name
        keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=SAVED_AT)
        stop = lightning.pytorch.callbacks.LambdaCallback(
            on_train_batch_end=lambda trainer, *_: setattr(
                trainer, "should_stop", trainer.global_step >= SAVED_AT
            )
        )
        trainer(
            enable_checkpointing=True, callbacks=[keep, stop], max_steps=STEPS, max_epochs=-1
        ).fit(module(**options), data())
        return file

    return save


def go_on(file: Path, resume: str = "strict", steps: int = STEPS, **options: Any) -> Any:
    stock = trainer(max_steps=steps, max_epochs=-1)
    resumed = module(resume, **options)
    stock.fit(resumed, data(), ckpt_path=file, weights_only=True)
    return resumed, stock


@pytest.mark.parametrize("resume", ["strict", "changed"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_same_setup_goes_on_as_if_never_stopped(
    resume: str, optimizer: str, tmp_path: Path
) -> None:
    build = partial(module, resume, optimizer=optimizer)
    whole, rest = whole_and_resumed(build, data, tmp_path, SAVED_AT, max_steps=STEPS, max_epochs=-1)
    for a, b in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(a, b)


ADAM = partial(torch.optim.Adam, betas=(0.9, 0.999))
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "base width": (
        {"parametrization": "mulinear"},
        {"parametrization": "mulinear", "base_width": 8},
        "layers.1.weight.mult=",
    ),
    "sp to ntk": (
        {"parametrization": "sp", "optimizer": "sgd"},
        {"parametrization": "ntk", "optimizer": "sgd"},
        ".mult=1.0 (now ",
    ),
    "mup to mulinear at the base": (
        {"base_width": 32},
        {"base_width": 32, "parametrization": "mulinear"},
        "parametrization=mup (now mulinear)",
    ),
    "schedule": ({}, {"schedule": Schedule("linear")}, "scheduler.shape=cosine (now linear)"),
    "betas": (
        {"optimizer": ADAM},
        {"optimizer": partial(torch.optim.Adam, betas=(0.8, 0.999))},
        "optimizer.betas=[0.9, 0.999] (now [0.8, 0.999])",
    ),
    "class": ({"optimizer": "adamw"}, {"optimizer": "adam"}, "optimizer=torch.AdamW (now torch.A"),
    "learning rate": ({}, {"lr": 0.02}, "saved under lr=0.01 (now 0.02), layers.0.weight.lr"),
    "decay": ({}, {"weight_decay": 0.1}, "layers.0.weight.wd=0.0 (now 0.1)"),
    "role": (
        {},
        {"roles": {"layers.1.bias": "hidden"}, "lr": 0.01},
        "layers.1.bias.role=",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_setup_is_refused_with_both_values(name: str, saved: Any) -> None:
    before, after, words = OTHERS[name]
    with pytest.raises(ConfigError, match=re.escape(words)) as refusal:
        go_on(saved(**before), **after)
    assert str(refusal.value).startswith("checkpoint: it was saved under ")


def test_what_the_weights_mean_cannot_be_changed_on_purpose(saved: Any) -> None:
    file = saved()
    for after in ({"base_width": 8}, {"optimizer": "sgd"}):
        with pytest.raises(ConfigError, match="weights and states mean nothing else"):
            go_on(file, "changed", **after)


def test_other_steps_are_refused_where_the_schedule_has_an_end(saved: Any) -> None:
    with pytest.raises(ConfigError, match=r"max_steps=10 \(now 20\)"):
        go_on(saved(), steps=20)
    go_on(saved(schedule=Schedule()), steps=12, schedule=Schedule())


def test_a_new_learning_rate_and_schedule_are_taken_on_request(
    saved: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    after = {"lr": 0.02, "weight_decay": 0.1, "schedule": Schedule("linear")}
    file = saved()
    capsys.readouterr()
    rates = []

    class Noted(TrainingModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    setup = module(**after).training_setup
    resumed = Noted(setup, resume="changed")
    stock = trainer(max_steps=STEPS, max_epochs=-1)
    stock.fit(resumed, data(), ckpt_path=file, weights_only=True)
    fresh = [group["lr"] for group in setup.optimizer().param_groups]
    assert len(rates) == STEPS - SAVED_AT
    for k, now in enumerate(rates, start=SAVED_AT):
        factor = setup.schedule(k, STEPS)
        assert now == pytest.approx([lr * factor for lr in fresh])
    said = capsys.readouterr().out
    assert "checkpoint: it was saved under lr=0.01 (now 0.02), scheduler.shape=cosine (" in said
    assert len(stock.optimizers[0].state) == 8  # the moments of all tensors went along


def test_tensors_keep_their_own_states_in_other_groups(saved: Any) -> None:
    file = saved(parametrization="sp")
    moments = torch.load(file, weights_only=True)["optimizer_states"][0]["state"]
    shapes = [tuple(entry["exp_avg"].shape) for entry in moments.values()]
    assert len(shapes) == 8
    # under sp there is one group; a learning rate of its own moves a tensor into another
    parametrization = get_parametrization("sp", overrides={"layers.1.weight": {"lr": "1/2"}})
    resumed, stock = go_on(file, "changed", parametrization=parametrization)
    (optimizer,) = stock.optimizers
    assert len(optimizer.param_groups) == 2
    for parameter in resumed.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
        assert optimizer.state[parameter]["step"] == STEPS


def test_a_checkpoint_of_an_earlier_version_loads_on_request(saved: Any, tmp_path: Path) -> None:
    content = torch.load(saved(), weights_only=True)
    del content["mupl"]
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(ConfigError, match="it does not say which setup saved it"):
        go_on(tmp_path / "old.ckpt")
    go_on(tmp_path / "old.ckpt", "changed")


def test_a_wrong_word_is_named() -> None:
    with pytest.raises(ConfigError, match="resume=yes: must be strict or changed"):
        module("yes")
