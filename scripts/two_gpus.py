"""Train on two devices in every way, and compare with one device.

    python scripts/two_gpus.py
    torchrun --nproc-per-node 2 scripts/two_gpus.py

The second is the first half of the first: models in a loop, in float64. The first then trains by
train.py, with trainer=ddp and trainer=fsdp2, in float32, and goes on from a sharded checkpoint on
one device. Takes GPUs (NCCL) where there are as many as processes, else the CPU (gloo). Prints
tables of differences, of losses and of trained weights; the exit code is 1 if one is not rounding.
"""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

import mupl
from mupl.models import GPT

WIDTH, BASE = 32, 8
STEPS = 4
# of losses of order 1, and of weights that Adam moved in steps of 0.01
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-9, 1e-6

Scales = Mapping[str, Any]
Prepared = tuple[nn.Module, Scales]


class Tied(nn.Module):
    """Reads out by the matrix of its embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.hidden = nn.Linear(width, width)
        self.readout = nn.Linear(width, 11, bias=False)
        self.readout.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(self.hidden(self.embedding(tokens)).tanh())


def leaves(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Embedding(11, width), nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, 11)
    )


def gpt(width: int) -> nn.Module:
    return GPT(11, 8, width, depth=1, d_head=8, tied=True)


# a model, and the modules of it that FSDP2 shards on their own
MODELS: dict[str, tuple[Callable[[int], nn.Module], Callable[[nn.Module], list[nn.Module]]]] = {
    "tied": (Tied, lambda model: [model.hidden]),
    "each layer on its own": (leaves, lambda model: list(model)),
    "gpt": (gpt, lambda model: list(model.blocks)),
}


def device() -> torch.device:
    """This process's GPU, if there is one for each, or the CPU."""
    if torch.cuda.device_count() < int(os.environ.get("LOCAL_WORLD_SIZE", "2")):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def described(name: str) -> tuple[Callable[[int], nn.Module], Scales]:
    build = MODELS[name][0]
    infos = mupl.describe(build, WIDTH, BASE)
    # in this table nearly all tensors have a multiplier
    return build, mupl.scale(infos, "unit_init", "adamw", lr=0.01, eps=1e-12)


def own_values(name: str) -> Prepared:
    """A model of rescaled own values."""
    build, scales = described(name)
    torch.manual_seed(0)
    return mupl.initialize_(build(WIDTH), scales).to(device()), scales


def drawn(name: str) -> Prepared:
    """A model whose tensors are all drawn."""
    build, scales = described(name)
    return mupl.initialize_(build(WIDTH), scales, seed=0, draw=True).to(device()), scales


def shard(name: str, model: nn.Module) -> nn.Module:
    mesh = init_device_mesh(device().type, (dist.get_world_size(),))
    for module in MODELS[name][1](model):
        fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def ddp(name: str) -> Prepared:
    model, scales = own_values(name)
    return DistributedDataParallel(model), scales


def initialised_then_sharded(name: str) -> Prepared:
    model, scales = own_values(name)
    return shard(name, model), scales


def on_meta(name: str) -> Prepared:
    """A model without values."""
    build, scales = described(name)
    with torch.device("meta"):
        return build(WIDTH), scales


def give_memory(name: str, model: nn.Module) -> None:
    """Give memory to a model that is on the meta device; no state dict holds all of its buffers."""
    model.to_empty(device=device())
    for key, buffer in described(name)[0](WIDTH).named_buffers():
        model.get_buffer(key).copy_(buffer)


def sharded_then_drawn(name: str) -> Prepared:
    model, scales = on_meta(name)
    shard(name, model)
    give_memory(name, model)
    return mupl.initialize_(model, scales, seed=0, draw=True), scales


def loaded_from_the_first(name: str) -> Prepared:
    """Only the first process makes the model; the others get their parts of it."""
    model, scales = on_meta(name)
    mupl.initialize_(model, scales)  # sets multipliers
    shard(name, model)
    give_memory(name, model)
    state = own_values(name)[0].state_dict() if dist.get_rank() == 0 else {}
    options = dcp.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    dcp.set_model_state_dict(model, state, options=options)
    return model, scales


# a way to make a model on several devices, and the model on one that it must equal
WAYS: dict[Callable[[str], Prepared], Callable[[str], Prepared]] = {
    ddp: own_values,
    initialised_then_sharded: own_values,
    loaded_from_the_first: own_values,
    sharded_then_drawn: drawn,
}


def train(model: nn.Module, scales: Scales, rank: int = 0, world: int = 1) -> Tensor:
    """Return the losses of a few steps on all examples, of which each process has its part."""
    with torch.no_grad():  # must leave no trace
        model(torch.zeros(1, 8, dtype=torch.long, device=device()))
    for module in model.modules():
        if isinstance(module, FSDPModule):  # the outermost one stays whole after a pass
            module.reshard()
    optimizer = torch.optim.AdamW(mupl.param_groups(model, scales))
    losses = []
    for step in range(STEPS):
        tokens = (torch.arange(32).view(4, 8) * (step + 3)) % 11
        tokens = tokens.chunk(world)[rank].to(device())
        loss = F.cross_entropy(model(tokens).flatten(0, -2), (tokens + 1).flatten() % 11)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    found = torch.stack(losses)
    if world > 1:
        dist.all_reduce(found)
    return found / world


class Difference(NamedTuple):
    """The largest differences between several devices and one."""

    model: str
    way: str
    of_losses: float
    of_weights: float

    @property
    def is_rounding(self) -> bool:
        return self.of_losses < LOSS_TOLERANCE and self.of_weights < WEIGHT_TOLERANCE


def differences() -> Iterator[Difference]:
    """Train every model in every way, and compare; all processes must call this.

    The whole state dict of the trained model is loaded into a plain one, which knows its
    multipliers.
    """
    options = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    for name in MODELS:
        for way, reference in WAYS.items():
            model, scales = way(name)
            losses = train(model, scales, dist.get_rank(), dist.get_world_size())
            state = dcp.get_model_state_dict(model, options=options)
            expected_model, scales = reference(name)
            expected = train(expected_model, scales)
            if dist.get_rank() > 0:  # has no whole state
                continue
            loaded, _ = reference(name)
            loaded.load_state_dict(state)
            weights = []
            for key, w in expected_model.named_parameters():
                weights.append((loaded.get_parameter(key) - w).abs().max().item())
            of_losses = (losses - expected).abs().max().item()
            yield Difference(name, way.__name__, of_losses, max(weights))


ROOT = Path(__file__).parents[1]
RUN = (
    *("model=gpt", "data=text", "data.context=64", "width=128", "base_width=32", "depth=2"),
    *("batch_size=16", "max_steps=40", "trainer.log_every_n_steps=2", "sample.tokens=0"),
    *("trainer.val_check_interval=20", "scheduler=cosine", "lr=3e-3", "trainer.precision=32-true"),
    *("checkpoint.every_steps=20", "checkpoint.keep=9"),
)
CONFIG_TOLERANCE = 1e-5  # of losses, relative, in float32


def train_by_config(folder: Path, *arguments: str) -> list[float]:
    """Train by train.py, and return all losses that were logged, of training and validation."""
    command = [sys.executable, str(ROOT / "train.py"), *RUN, *arguments, f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    losses = []
    with (folder / "metrics.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            losses += [float(row[key]) for key in ("train_loss", "val_loss") if row[key]]
    return losses


def compare_configs(out: Path) -> bool:
    """Train by train.py on one device and on two, print how far losses part; whether rounding."""
    accelerator = "gpu" if torch.cuda.device_count() > 1 else "cpu"
    kind = f"trainer.accelerator={accelerator}"
    expected = train_by_config(out / "one", kind)
    good = True
    ways = {
        "ddp": ("trainer=ddp", "trainer.devices=2", kind),
        "ddp_muon": ("trainer=ddp", "trainer.devices=2", kind, "optimizer=muon"),
        "fsdp2": ("trainer=fsdp2", "trainer.devices=2", kind),
        "fsdp2_then_one": (kind, "resume=true"),
    }
    for way, arguments in ways.items():
        reference = expected
        if way == "ddp_muon":
            reference = train_by_config(out / "one_muon", kind, "optimizer=muon")
        if "resume=true" in arguments:
            shutil.copytree(out / "fsdp2", out / way)
            (out / way / "result.json").unlink()
            (out / way / "checkpoints" / "step-40.ckpt").unlink()
        found = train_by_config(out / way, *arguments)
        pairs = zip(found, reference, strict=True)
        largest = max(abs(ours / theirs - 1) for ours, theirs in pairs)
        # five steps of Newton-Schulz in bfloat16 amplify rounding
        tolerance = 1e-2 if "muon" in way else CONFIG_TOLERANCE
        good &= largest < tolerance
        print(f"{way:24} {largest:.1e} {'ok' if largest < tolerance else 'DIFFERENT'}", flush=True)
    return good


def compare_all() -> None:
    """Run both halves, each in processes of its own."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__)
    loops = subprocess.run([sys.executable, *launch], check=False)
    with tempfile.TemporaryDirectory() as out:
        print("train.py, relative differences of losses in float32")
        good = compare_configs(Path(out))
    sys.exit(loops.returncode or not good)


def main() -> None:
    if "RANK" not in os.environ:
        compare_all()
    # of a linear layer's output, which torch itself reshapes
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    torch.set_default_dtype(torch.float64)
    if device().type == "cuda":
        torch.cuda.set_device(device())
    dist.init_process_group("nccl" if device().type == "cuda" else "gloo")
    found = list(differences())
    if found:
        print(f"{dist.get_world_size()} processes on {device().type}, torch {torch.__version__}")
    for row in found:
        verdict = "ok" if row.is_rounding else "DIFFERENT"
        print(f"{row.model:24} {row.way:26} {row.of_losses:.1e} {row.of_weights:.1e} {verdict}")
    dist.destroy_process_group()
    sys.exit(not all(row.is_rounding for row in found))


if __name__ == "__main__":
    main()
