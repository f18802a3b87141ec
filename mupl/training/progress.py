"""What a run shows while it trains: steps, loss, speed, the time that is left."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import get_available_flops, measure_flops
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from mupl.data.batches import TrainLoader
from mupl.initializers import on_meta
from mupl.training.setup import Setup

# Lightning's word for the precision -> the type of matrix products
PRODUCTS: Mapping[str, torch.dtype] = {
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
    "16-true": torch.float16,
    "64-true": torch.float64,
}
# Products a second, without sparsity, of a GPU whose name Lightning does not recognise (NVIDIA's
# data sheet)
H200 = {
    torch.bfloat16: 989.5e12,
    torch.float16: 989.5e12,
    "tfloat32": 494.7e12,
    torch.float32: 66.9e12,
    torch.float64: 33.5e12,
}


class StepProgress(Callback):
    """Shows one bar over all the steps of a run, with the last logged loss and the speed.

    Speed is in tokens a second of a language model, else in examples; of all processes together.
    Model FLOPs utilization (MFU; Chowdhery et al. 2022, appendix B) is the products of matrices
    that the model needs in a second, without those that activation checkpointing repeats, over what
    the devices could do.

    Args:
        batch_size: examples of an update.
        tokens: of an example; None where examples are no texts.
    """

    def __init__(self, batch_size: int, tokens: int | None = None) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),  # what the others leave
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left {task.fields[said]}"),
            expand=True,
        )
        self._batch_size = batch_size
        self._unit = "examples" if tokens is None else "tokens"
        self._units = batch_size * (tokens or 1)  # of an update
        self._flops: float | None = None  # of an update
        self._peak: float | None = None  # operations a second of all devices

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._peak = peak_flops(trainer)
        if self._peak is not None:
            setup: Any = pl_module.training_setup
            self._flops = update_flops(setup, trainer, self._batch_size)
        self._begun_at = trainer.global_step
        self._begun = time.perf_counter()
        self._task = self._progress.add_task(
            "training",
            total=trainer.estimated_stepping_batches,
            completed=trainer.global_step,
            said="",
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            loss = trainer.callback_metrics.get("train_loss")  # mean over all processes
            said = self._speed(trainer)
            if loss is not None:
                said = f"train_loss {loss:.4f}, {said}"
            self._progress.update(self._task, completed=trainer.global_step, said=said)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._progress.update(self._task, completed=trainer.global_step)
        self._progress.stop()
        if trainer.global_step > self._begun_at:
            print(f"speed: {self._speed(trainer)}{self._why_no_mfu(trainer)}", flush=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._progress.stop()

    def _why_no_mfu(self, trainer: Trainer) -> str:
        is_cpu = trainer.strategy.root_device.type == "cpu"  # of which nobody expects an MFU
        return "" if self._peak or is_cpu else " (no MFU: the peak of this device is not known)"

    def _speed(self, trainer: Trainer) -> str:
        """Say the speed since the start: "52,113 tokens/s, MFU 41.2 %", without MFU if unknown."""
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        updates = (trainer.global_step - self._begun_at) / seconds
        text = f"{self._units * updates:,.0f} {self._unit}/s"
        if self._peak is None or self._flops is None:
            return text
        return f"{text}, MFU {100 * self._flops * updates / self._peak:.1f} %"


def peak_flops(trainer: Trainer) -> float | None:
    """Return the products a second that all devices could do; None where they are not known."""
    device = trainer.strategy.root_device
    kind: torch.dtype | str = PRODUCTS.get(str(trainer.precision), torch.float32)
    if kind is torch.float32 and torch.get_float32_matmul_precision() != "highest":
        kind = "tfloat32"
    peak = device_flops(device, kind)
    return None if peak is None else peak * trainer.world_size


def device_flops(device: torch.device, kind: torch.dtype | str) -> float | None:
    """Return the products a second that one device could do; None where they are not known.

    Args:
        kind: of the products: a dtype, or "tfloat32".
    """
    if device.type == "cuda" and torch.cuda.get_device_name(device) == "NVIDIA H200":
        return H200.get(kind)
    try:
        peak = get_available_flops(device, kind)
    except (KeyError, ValueError):
        return None
    return None if peak is None else float(peak)


def update_flops(setup: Setup, trainer: Trainer, batch_size: int) -> float | None:
    """Count the operations of matrix products in an update; None if the model cannot be counted.

    One example goes through the model without memory (the meta device), forward and backward.
    """
    loader = trainer.train_dataloader
    if not isinstance(loader, TrainLoader):
        return None
    try:
        x, target = loader.first()
        with on_meta():
            model = setup.build()
        x = x[:1].to("meta")
        target = target[:1].to("meta")
        count = measure_flops(model, lambda: model(x), lambda y: setup.loss(y, target))
    except Exception:  # of any model
        return None
    return float(count * batch_size)
