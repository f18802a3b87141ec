"""One run: the training module beside a minimal LightningModule and a plain loop; parametrizations
beside SP.

    python benchmarks/single_run.py

1. `TrainingModule` with `LossRecord` and `TensorData`, as train.py runs it (muP at four times the
   base width, CSV logger), a LightningModule of ten lines on the same batches under the same
   Trainer settings, and a plain loop over the same tensors, which makes its batches itself. The
   three take turns step by step. MLP of depth 3, AdamW, batch 64, 60,000 images of 28 x 28 pixels.
   The minimal module never logs; TrainingModule does where Lightning writes a row.
2. `TrainingModule` under the parametrizations that work by param groups beside itself under SP,
   likewise.
3. A plain training step (forward, backward, AdamW) under the same.
"""

import itertools
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from stacked import images
from timing import Times, add_rows, alternate, new_table, show, take_turns
from torch import Tensor, nn

from mupl.data import Splits
from mupl.data.modules import TensorData
from mupl.models import MLP
from mupl.training.callbacks import LossRecord
from mupl.training.module import TrainingModule
from mupl.training.setup import Setup

BATCH, DEPTH, LR = 64, 3, 1e-4
PIXELS, CLASSES, EXAMPLES = 28 * 28, 10, 60_000
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


def network(width: int) -> nn.Sequential:
    """What `MLP` computes in SP, of stock layers."""
    sizes = [PIXELS] + [width] * DEPTH
    hidden = [
        m for n_in, n_out in itertools.pairwise(sizes) for m in (nn.Linear(n_in, n_out), nn.ReLU())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, CLASSES))


class Minimal(LightningModule):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = network(width)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=LR)


class MinimalLogging(Minimal):
    """The same, with the loss logged as most modules do it."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss


class Turn(Callback):
    def __init__(self, end_step: Callable[[], None]) -> None:
        self.end_step = end_step

    def on_train_batch_end(self, *_: object) -> None:
        self.end_step()


def plain_loop(width: int, splits: Splits, steps: int, end_step: Callable[[], None]) -> None:
    model = network(width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    scale = (1 / (255 * splits.std)).float()[:, None, None]
    shift = (-splits.mean / splits.std).float()[:, None, None]
    order = torch.randperm(EXAMPLES)
    for step in range(steps):
        rows = order[torch.arange(step * BATCH, (step + 1) * BATCH) % EXAMPLES]
        x, y = splits.train_x[rows].float().mul_(scale).add_(shift), splits.train_y[rows]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        end_step()


def fit(
    module: LightningModule,
    folder: str,
    log_every: int,
    splits: Splits,
    steps: int,
    end_step: Callable[[], None],
) -> None:
    """Fit with the settings of conf/trainer/cpu.yaml and conf/logger/csv.yaml, without validation.

    A `TrainingModule` has the callback that train.py gives it.
    """
    record = [LossRecord()] if isinstance(module, TrainingModule) else []
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        log_every_n_steps=log_every,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[*record, Turn(end_step)],
    )
    trainer.fit(module, datamodule=TensorData(splits, BATCH))


def training_module(parametrization: str, width: int, lr: float = LR) -> TrainingModule:
    """At four times its base width."""
    setup = Setup(
        lambda w: MLP(PIXELS, CLASSES, w, DEPTH),
        width,
        base_width=width // 4,
        lr=lr,
        parametrization=parametrization,
    )
    return TrainingModule(setup)


def compare_runs(
    modules: Mapping[str, LightningModule],
    rounds: int,
    window: int,
    loops: Mapping[str, Callable[..., None]],
) -> Times:
    """Time runs of modules, each of which logs once in a window, and other loops.

    A loop is called with images, the number of steps, and `end_step`.
    """
    run = images(1, 28, EXAMPLES), (rounds + 1) * window
    with tempfile.TemporaryDirectory() as folder:
        fits = {
            name: partial(fit, module, f"{folder}/{name}", window)
            for name, module in modules.items()
        }
        return take_turns(
            {name: partial(turn, *run) for name, turn in {**loops, **fits}.items()}, window
        )


def parametrized_step(name: str, width: int) -> Callable[[], None]:
    """A training step under a parametrization at four times its base width, on one batch."""
    # lr so small that the batch is not learnt by heart, which would make gradients underflow
    module = training_module(name, width, lr=1e-12)
    model = module.model
    optimizer = module.training_setup.optimizer()
    x = torch.randn(BATCH, PIXELS)
    y = torch.randint(CLASSES, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def main() -> None:
    table = new_table("A step of a run")
    for width, rounds, window, baseline in (
        (256, 25, 50, "minimal LightningModule"),
        (2048, 16, 5, "plain loop"),
    ):
        modules = {
            "minimal LightningModule": Minimal(width),
            "minimal, logs each step": MinimalLogging(width),
            "TrainingModule": training_module("mup", width),
        }
        times = compare_runs(modules, rounds, window, {"plain loop": partial(plain_loop, width)})
        add_rows(table, f"width {width}", times, baseline, {"TrainingModule": 1.1})
    show(table)

    targets = dict.fromkeys(("mup", "mup_table3", "cerebras"), 1.02)
    names = ("sp", "sp again", *targets)
    table = new_table("A step of a run under a parametrization")
    modules = {name: training_module(name.split()[0], 256) for name in names}
    times = compare_runs(modules, rounds=40, window=50, loops={})
    add_rows(table, "width 256", times, "sp", targets)
    show(table)

    table = new_table("A plain training step under a parametrization")
    for width, seconds in ((256, 16.0), (2048, 24.0)):
        makers = {name: partial(parametrized_step, name.split()[0], width) for name in names}
        add_rows(table, f"width {width}", alternate(makers, seconds), "sp", targets)
    show(table)


if __name__ == "__main__":
    main()
