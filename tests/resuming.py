"""Short trainings under Lightning, and how they go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

M = TypeVar("M", bound=lightning.LightningModule)


class Recorder(lightning.LightningModule):
    """Notes what `look` sees in each batch; has one weight so that it can be trained."""

    def __init__(self, look: Callable[[Tensor], list[int]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.look = look
        self.seen: list[list[int]] = []
        self.seen_dtype: torch.dtype | None = None
        self.num_val = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, _ = batch
        self.seen.append(self.look(x))
        self.seen_dtype = x.dtype
        return self.weight * x.sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.num_val += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**kwargs: Any) -> lightning.Trainer:
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    values = {"devices": 1, **quiet, **kwargs}
    return lightning.Trainer(accelerator="cpu", num_sanity_val_steps=0, **values)


def whole_and_resumed(
    module: Callable[[], M],
    data: Callable[[], lightning.LightningDataModule],
    folder: Path,
    steps: int,
    **kwargs: Any,
) -> tuple[M, M]:
    """A module that was trained at once, and one from where the first was after `steps` steps."""
    whole, rest = module(), module()
    for each, checkpoint in ((whole, None), (rest, folder / f"step={steps}.ckpt")):
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=steps, save_top_k=-1)
        trainer(enable_checkpointing=True, callbacks=[keep], **kwargs).fit(
            each, data(), ckpt_path=checkpoint
        )
    return whole, rest
