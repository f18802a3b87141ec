"""A training step of a transformer under Muon beside the same under a fused AdamW.

    python benchmarks/muon_step.py   # on CUDA: 12 layers, width 768, 12 heads, 32 x 1024 tokens, bfloat16, compiled
    python benchmarks/muon_step.py --depth 2 --width 64 --heads 2 --context 32 --batch 2 --vocabulary 64  # on a CPU

All optimizers take turns on one compiled model: "Muon" is mupl's, hidden matrices by Newton-Schulz and the rest by the
fused AdamW of the same object; "torch's Muon" is torch.optim.Muon for the same matrices and a fused AdamW for the rest;
"none" is forward and backward alone. Then each optimizer's step by itself, on gradients that stay as they are.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import Step, add_rows, alternate, many, new_table, show
from torch.optim import AdamW, Muon

from mupl.models import GPT
from mupl.optim.families import family_of
from mupl.optim.groups import build_optimizer
from mupl.optim.orthogonal import Orthogonal
from mupl.parametrization.apply import apply, parameters
from mupl.parametrization.rules import get_parametrization, scales
from mupl.roles import describe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGET = 1.25  # of a training step under Muon over one under AdamW
STEPS = 4 if DEVICE == "cuda" else 1  # before the host waits for the device
LR = 1e-4


def optimizer_steps(model: GPT, build: Callable[[int], GPT], width: int) -> dict[str, Step]:
    """By the optimizer's name its step on the model, which becomes one in muP of half its width."""
    muon = partial(Orthogonal, fused=True)
    numbers = scales(describe(build, width, width // 2), get_parametrization("mup"), family_of(muon), lr=LR)
    apply(model, numbers)
    by_name = parameters(model, numbers)
    hidden = [w for name, w in by_name.items() if numbers[name].family == "orthogonal"]
    rest = [w for name, w in by_name.items() if numbers[name].family != "orthogonal"]
    of_hidden, of_rest = Muon(hidden, lr=LR), AdamW(rest, lr=LR, fused=True)

    def torch_muon() -> None:
        of_hidden.step()
        of_rest.step()

    return {
        "AdamW, fused": AdamW(by_name.values(), lr=LR, fused=True).step,
        "Muon": build_optimizer(muon, by_name, numbers).step,
        "torch's Muon": torch_muon,
    }


def backward(model: GPT, tokens: torch.Tensor, compiled: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model.zero_grad()
    with torch.autocast(DEVICE, torch.bfloat16):
        logits = compiled(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()


def queued(*calls: Step) -> Callable[[], Step]:
    """A maker of `STEPS` times the calls."""
    return partial(many, lambda: lambda: [call() for call in calls], STEPS)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"depth": 12, "width": 768, "heads": 12, "context": 1024, "batch": 32, "vocabulary": 50304}
    for name, default in sizes.items():
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument(
        "--seconds", type=float, default=30.0, help="of measuring, of each of the two tables' halves"
    )
    given = arguments.parse_args()

    torch.set_float32_matmul_precision("high")
    build = partial(GPT, given.vocabulary, given.context, depth=given.depth, d_head=given.width // given.heads)
    model = build(given.width).to(DEVICE)
    tokens = torch.randint(given.vocabulary, (given.batch, given.context + 1), device=DEVICE)
    steps = optimizer_steps(model, build, given.width)
    both = partial(backward, model, tokens, torch.compile(model))

    times = {
        f"{given.batch} x {given.context} tokens": alternate(
            {"none": queued(both)} | {name: queued(both, step) for name, step in steps.items()}, given.seconds, builds=1
        ),
        "the optimizer alone": alternate({name: queued(step) for name, step in steps.items()}, given.seconds, builds=1),
    }
    machine = torch.cuda.get_device_name() if DEVICE == "cuda" else "the CPU"
    table = new_table(f"{given.depth} layers, width {given.width}, {machine}")
    for label, found in times.items():
        per_step = {name: [t / STEPS for t in values] for name, values in found.items()}
        add_rows(table, label, per_step, "AdamW, fused", {"Muon": TARGET} if "tokens" in label else None)
    show(table)


if __name__ == "__main__":
    main()
