"""The trainers of others: transformers' `Trainer`, and Lightning's on two processes."""

import copy
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import mupl
from mupl.models import MLP
from tests.commands import run_twice
from tests.models import gpt2
from tests.resuming import trainer

# --- transformers


def texts() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(11, (32, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


def trained(folder: Path, resume: str | None = None, **options: Any) -> nn.Module:
    """GPT-2 after six steps of transformers' `Trainer`, or after the rest of them."""
    transformers = pytest.importorskip("transformers")
    values = {"base_width": 16, "lr": 0.01, "optimizer": "adamw"} | options
    setup = mupl.Setup(gpt2, 32, **values)
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=6,
        save_steps=3,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    stock = transformers.Trainer(
        setup.model, arguments, train_dataset=texts(), optimizers=(setup.optimizer(), None)
    )
    stock.train(resume_from_checkpoint=resume)
    return setup.model


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pinned memory and such
def test_transformers_trainer_goes_on_bit_for_bit_and_refuses_another_base(tmp_path: Path) -> None:
    start = copy.deepcopy(mupl.Setup(gpt2, 32, base_width=16, lr=0.01).model.state_dict())
    whole = trained(tmp_path)
    assert not torch.equal(whole.state_dict()["lm_head.weight"], start["lm_head.weight"])
    checkpoint = str(tmp_path / "checkpoint-3")
    rest = trained(tmp_path / "rest", resume=checkpoint)
    for key, value in whole.state_dict().items():
        assert torch.equal(rest.state_dict()[key], value), key
    for other, words in (
        ({"base_width": 8}, "multiplier 0.5 of a tensor that has 0.25 here"),
        ({"lr": 0.02}, "saved under lr=0.01 (now 0.02)"),
    ):
        with pytest.raises(mupl.ConfigError, match=re.escape(words)):
            trained(tmp_path / "other", resume=checkpoint, **other)


# --- Lightning


class Numbers(lightning.LightningDataModule):
    """Batches of 8 examples in one order, of which each process gets every n-th.

    Lightning's own sampler for several processes shuffles.
    """

    def loader(self, count: int) -> DataLoader:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(count, 6, generator=generator)
        world, rank = self.trainer.world_size, self.trainer.global_rank
        part = TensorDataset(x[rank::world], x[rank::world, :3].argmax(1))
        return DataLoader(part, batch_size=8 // world)

    def train_dataloader(self) -> DataLoader:
        return self.loader(32)

    def val_dataloader(self) -> DataLoader:
        return self.loader(16)


def fit(devices: int, strategy: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, and logged values, after some steps."""
    torch.manual_seed(0)
    module = mupl.TrainingModule(mupl.Setup(partial(MLP, 6, 3), 32, base_width=8, lr=0.01))
    options = {"devices": devices, "strategy": strategy, "use_distributed_sampler": False}
    stock = trainer(max_epochs=2, log_every_n_steps=1, **options)
    stock.fit(module, Numbers())
    return module.state_dict(), dict(stock.callback_metrics)


@pytest.fixture(scope="module")
def one_process() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return fit(1, "auto")


def spawned(folder: Path) -> Any:
    return fit(2, "ddp_spawn")


def launched(folder: Path) -> Any:
    """By torchrun, in which every process runs the same code."""
    file = folder / "found.pt"
    code = (
        "import torch; from tests.test_trainers import fit; found = fit(2, 'ddp');"
        f"torch.distributed.get_rank() or torch.save(found, {str(file)!r})"
    )
    done = run_twice("--no-python", sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return torch.load(file)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of data loaders, and of the processes' port
@pytest.mark.parametrize("by", [spawned, launched], ids=lambda by: by.__name__)
def test_lightning_s_ddp_trains_and_logs_what_one_process_does(
    by: Any, one_process: Any, tmp_path: Path
) -> None:
    weights, logged = by(tmp_path)
    expected_weights, expected = one_process
    assert weights.keys() == expected_weights.keys()
    for key, w in expected_weights.items():
        torch.testing.assert_close(weights[key], w, atol=1e-5, rtol=0)
    assert logged.keys() == {"train_loss", "val_loss", "val_accuracy"}
    for key, value in expected.items():
        torch.testing.assert_close(logged[key], value, atol=1e-5, rtol=0)
