"""Data that are numbers already: their batches, and a regression by the command line."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from mupl.data import Arrays, TrainLoader
from mupl.errors import ConfigError
from tests.commands import IGNORED, TABLE_ONLY, train_here

pytestmark = IGNORED
MSE = "loss=torch.nn.functional.mse_loss"


def sums(examples: int = 60) -> Arrays:
    """Rows of 4 numbers, of which the sum and the first are to be told."""
    x = torch.randn(examples, 4, generator=torch.Generator().manual_seed(0))
    y = torch.stack([x.sum(dim=1), x[:, 0]], dim=1)
    half = examples // 2
    return Arrays(x[:half], y[:half], x[half:], y[half:])


def signs(examples: int = 60) -> Arrays:
    """The same rows, with the sign of the sum as a class."""
    numbers = sums(examples)
    train, val = [(y[:, 0] > 0).long() for y in (numbers.train_y, numbers.val_y)]
    return Arrays(numbers.train_x, train, numbers.val_x, val, num_classes=2)


def test_batches_have_the_targets_of_their_examples() -> None:
    seen = []
    for x, y in TrainLoader(sums().train_batches(10, seeds=[0])):
        assert x.shape == (10, 4)
        torch.testing.assert_close(y, torch.stack([x.sum(dim=1), x[:, 0]], dim=1))
        seen.append(x)
    assert torch.cat(seen).sort(0)[0].equal(sums().train_x.sort(0)[0])  # each once in an epoch
    batches = sums().train_batches(10, seeds=[0, 1])
    batches.set_step(0)
    x, y = batches()
    assert (x.shape, y.shape) == ((2, 10, 4), (2, 10, 2))


@pytest.mark.parametrize("source", ["sums", "signs"])
def test_a_stack_has_the_losses_of_its_jobs_alone(
    source: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf/data").mkdir(parents=True)
    (tmp_path / "conf/data/mine.yaml").write_text(f"_target_: tests.test_arrays.{source}\n")
    sweep = [
        "-m",
        "--config-dir",
        str(tmp_path / "conf"),
        "data=mine",
        "lr=1e-3,1e-2",
        "width=8",
    ]
    sizes = ["base_width=8", "batch_size=10", "max_steps=12", "trainer=cpu"]
    loss = [MSE] if source == "sums" else []
    tables = []
    for launcher in ("basic", "stacked"):
        folder = tmp_path / launcher
        options = [f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}", TABLE_ONLY]
        precision = "trainer.precision=64-true"
        done = train_here(capfd, *sweep, *sizes, *loss, precision, *options)
        assert done.returncode == 0, done.stderr
        assert "go one by one" not in done.stdout
        tables.append(pd.read_csv(folder / "results.csv").sort_values("lr"))
    alone, stacked = tables
    assert stacked["val_loss"].to_numpy() == pytest.approx(alone["val_loss"].to_numpy(), abs=1e-7)
    assert stacked["val_accuracy"].isna().all() == (source == "sums")


def test_a_regression_learns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Targets (B, 1) beside outputs (B, 1); of targets (B,) the best would be their mean."""
    (tmp_path / "conf/data").mkdir(parents=True)
    (tmp_path / "conf/data/mine.yaml").write_text("_target_: tests.test_arrays.one\n")
    sizes = ["width=32", "base_width=32", "batch_size=30", "max_steps=200", "lr=1e-2"]
    folder = [f"hydra.run.dir={tmp_path / 'run'}", "trainer=cpu"]
    config = ["--config-dir", str(tmp_path / "conf"), "data=mine", MSE]
    done = train_here(capfd, *config, *sizes, *folder)
    assert done.returncode == 0, done.stderr
    row = pd.read_json(tmp_path / "run/result.json", typ="series")
    assert row["train_loss"] < 0.05 * one().train_y.var()


def one() -> Arrays:
    """As `sums`, with the sum alone."""
    numbers = sums()
    return Arrays(numbers.train_x, numbers.train_y[:, :1], numbers.val_x, numbers.val_y[:, :1])


X, Y, LABELS = torch.ones(3, 2), torch.ones(3, 1), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("tensors", "num_classes", "message"),
    [
        ((LABELS, Y, X, Y), None, r"train_x: must be \(N, ...\) of floats, not \(3,\) int64"),
        ((X, Y[:2], X, Y), None, "train_y: must have a target for each of 3 examples"),
        ((X, Y, X[:0], Y[:0]), None, "val_y: must have a target for each of 0 examples"),
        ((X, Y[:, 0], X, Y), None, r"train_y: must be \(N, K\) of floats, not \(3,\) float32"),
        ((X, LABELS, X, LABELS), None, "for classes say num_classes"),
        ((X, Y, X, Y), 2, r"train_y: classes must be \(N,\) int64, not \(3, 1\) float32"),
        ((X, LABELS, X, LABELS), 2, "num_classes=2: train_y has others"),
        ((X, Y, torch.ones(3, 4), Y), None, "train_x and val_x: must be alike"),
        ((X, Y, X, Y.double()), None, "train_y and val_y: must be alike"),
    ],
)
def test_what_does_not_fit_is_said(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor], num_classes: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Arrays(*tensors, num_classes=num_classes)
