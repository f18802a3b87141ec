"""Short trainings under Lightning, and how they go on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning
from lightning.pytorch.callbacks import ModelCheckpoint

M = TypeVar("M", bound=lightning.LightningModule)


def trainer(**kwargs: Any) -> lightning.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return lightning.Trainer(accelerator="cpu", devices=1, num_sanity_val_steps=0, **(quiet | kwargs))


def whole_and_resumed(
    module: Callable[[], M], data: Callable[[], lightning.LightningDataModule], folder: Path, steps: int, **kwargs: Any
) -> tuple[M, M]:
    """A module that was trained at once, and one from where the first was after `steps` steps."""
    whole, rest = module(), module()
    for each, checkpoint in ((whole, None), (rest, folder / f"step={steps}.ckpt")):
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=steps, save_top_k=-1)
        trainer(enable_checkpointing=True, callbacks=[keep], **kwargs).fit(each, data(), ckpt_path=checkpoint)
    return whole, rest
