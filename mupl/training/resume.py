"""What a checkpoint says of the training that saved it, and whether another may go on from it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mupl.errors import ConfigError
from mupl.optim.groups import SHOWN, with_groups_of
from mupl.optim.registry import qualified
from mupl.parametrization.scales import scale_rows
from mupl.training.setup import Setup

RESUME = ("strict", "changed")
# Options of an optimizer that are in the table of tensors already, or choose an implementation
NOT_RECORDED = (
    *("lr", "eps", "matrix_eps", "weight_decay"),
    *("foreach", "fused", "capturable", "differentiable"),
)
# What saved weights and states have no meaning without: the class of the optimizer, and of each
# tensor these columns of the table
FIXED = ("optimizer", "shape", "mult", "update_kind")

Record = dict[str, Any]  # plain values by dotted key


def record(setup: Setup) -> Record:
    """Describe a training by its hyperparameters, its optimizer's options and its table."""
    optimizer = setup.optimizer()
    entries = {
        "parametrization": setup.parametrization.name,
        "width": _plain(setup.width),
        "base_width": _plain(setup.base_width),
        "lr": setup.lr,
        "optimizer": qualified(type(optimizer)),
    }
    for name, value in optimizer.defaults.items():
        if name not in NOT_RECORDED:
            entries[f"optimizer.{name}"] = _plain(value)
    for name, value in asdict(setup.schedule).items():
        entries[f"scheduler.{name}"] = _plain(value)
    for row in scale_rows(setup.infos, setup.scales):
        info = setup.infos[row["name"]]
        for key in ("m_in", "m_out", "m_L"):
            row[key] = getattr(info, key, None)
        for key, value in row.items():
            if key != "name":
                entries[f"{row['name']}.{key}"] = value
    return entries


def check_same(saved: Record | None, setup: Setup, resume: str) -> None:
    """Refuse a checkpoint that another setup saved.

    Args:
        saved: the setup's record in the checkpoint; None: it has none.
        setup: the one to go on with.
        resume: see `mupl.training.module.TrainingModule`.

    Raises:
        ConfigError: showing saved and present values.
    """
    if saved is None:
        if resume == "strict":
            raise ConfigError(
                "checkpoint: it does not say which setup saved it, as in earlier versions; "
                "say TrainingModule(setup, resume='changed') to go on from it all the same"
            )
        return
    present = record(setup)
    different = []
    for key in (*saved, *(key for key in present if key not in saved)):
        if saved.get(key) != present.get(key):
            different.append(key)
    fixed = [key for key in different if _is_fixed(key)]
    if fixed:
        raise ConfigError(
            f"checkpoint: it was saved under {_shown(fixed, saved, present)}; its weights and "
            "states mean nothing else: go on with the setup of that run"
        )
    if different and resume == "strict":
        raise ConfigError(
            f"checkpoint: it was saved under {_shown(different, saved, present)}; go on with the "
            "setup of that run, or say TrainingModule(setup, resume='changed') to go on with this"
        )
    if different:
        print(f"checkpoint: it was saved under {_shown(different, saved, present)}", flush=True)


def check_same_steps(saved: int | None, steps: int, setup: Setup) -> None:
    """Refuse another number of steps where it would change the schedule.

    Raises:
        ConfigError: showing both.
    """
    schedule = setup.schedule
    depends = schedule.shape != "constant" or schedule.warmup > 0
    if depends and saved is not None and saved != steps:
        raise ConfigError(
            f"checkpoint: it was saved under max_steps={saved} (now {steps}), which the schedule "
            "is a fraction of; say TrainingModule(setup, resume='changed') to go on with this"
        )


def use_groups_of(setup: Setup, checkpoint: Mapping[str, Any]) -> None:
    """Put the setup's param groups in place of a checkpoint's, and give each tensor its state."""
    for saved in checkpoint.get("optimizer_states", []):
        saved.update(with_groups_of(setup.optimizer(), saved))


def use_rates_of(setup: Setup, optimizer: Optimizer, scheduler: LambdaLR) -> None:
    """Set the setup's learning rates, where its schedule is after the updates that were made."""
    scheduler.base_lrs = [group["lr"] for group in setup.optimizer().param_groups]
    rates = []
    for group, lr, factor in zip(
        optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["initial_lr"] = lr
        group["lr"] = lr * factor(scheduler.last_epoch)
        rates.append(group["lr"])
    scheduler._last_lr = rates


def _is_fixed(key: str) -> bool:
    return key.rpartition(".")[2] in FIXED and not key.startswith("scheduler.")


def _plain(value: Any) -> Any:
    """Return numbers, texts and lists of them as they are, and the kind of anything else."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return type(value).__name__


def _shown(keys: list[str], saved: Record, present: Record) -> str:
    parts = [f"{key}={saved.get(key)} (now {present.get(key)})" for key in keys[:SHOWN]]
    if len(keys) > SHOWN:
        parts.append(f"{len(keys) - SHOWN} more")
    return ", ".join(parts)
