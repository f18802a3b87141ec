"""A training step of a transformer under Muon and Hyperball beside the same under a fused AdamW.

    # on CUDA: 12 layers, width 768, 12 heads, 32 x 1024 tokens, bfloat16, compiled
    python benchmarks/muon_step.py
    # on a CPU
    python benchmarks/muon_step.py --depth 2 --width 64 --heads 2 --context 32 --batch 2 \\
        --vocabulary 64

All optimizers take turns on one compiled model: "Muon" is mupl's, hidden matrices by Newton-Schulz
and the rest by the fused AdamW of the same object; "torch's Muon" is torch.optim.Muon for the same
matrices and a fused AdamW for the rest; "AdamH" and "MuonH" are Hyperball's, whose hidden matrices
keep their norms, about a fused AdamW and about Muon; "none" is forward and backward alone. Then
each optimizer's step by itself, on gradients that stay as they are.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import Step, add_rows, alternate, new_table, show
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from mupl.models import GPT
from mupl.nn.tensors import parameters
from mupl.optim.groups import build_optimizer
from mupl.optim.normalized import Normalized
from mupl.optim.orthogonal import Orthogonal
from mupl.optim.scaling import scale
from mupl.training.setup import Setup, cross_entropy

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGET = 1.25  # of a training step under Muon over one under AdamW
STEPS = 4 if DEVICE == "cuda" else 1  # before the host waits for the device
LR = 1e-4


def optimizer_steps(muon: Setup) -> dict[str, Step]:
    """By the optimizer's name its step on the setup's model."""
    by_name = parameters(muon.model, muon.scales)
    hidden = [w for name, w in by_name.items() if muon.scales[name].update_kind == "orthogonal"]
    rest = [w for name, w in by_name.items() if muon.scales[name].update_kind != "orthogonal"]
    of_hidden, of_rest = Muon(hidden, lr=LR), AdamW(rest, lr=LR, fused=True)

    def torch_muon() -> None:
        of_hidden.step()
        of_rest.step()

    return {
        "AdamW, fused": AdamW(by_name.values(), lr=LR, fused=True).step,
        "Muon": muon.optimizer().step,
        "torch's Muon": torch_muon,
        "AdamH": hyperball(muon, partial(AdamW, fused=True)).step,
        "MuonH": hyperball(muon, partial(Orthogonal, fused=True)).step,
    }


def hyperball(setup: Setup, inner: partial[Optimizer]) -> Optimizer:
    """Hyperball about an inner optimizer, for the setup's model, whose multipliers are the same."""
    optimizer = partial(Normalized, inner=inner, normalise="hyperball")
    scales = scale(setup.infos, setup.parametrization, optimizer, lr=LR)
    return build_optimizer(optimizer, parameters(setup.model, scales), scales)


def backward(
    model: nn.Module, tokens: torch.Tensor, compiled: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    model.zero_grad()
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = cross_entropy(compiled(tokens[:, :-1]), tokens[:, 1:])
    loss.backward()


def together(*steps: Step) -> Callable[[], Step]:
    """A maker of all the steps as one."""
    return lambda: lambda: [step() for step in steps]


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {
        "depth": 12,
        "width": 768,
        "heads": 12,
        "context": 1024,
        "batch": 32,
        "vocabulary": 50304,
    }
    for name, default in sizes.items():
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument(
        "--seconds", type=float, default=25.0, help="of measuring, of each half of the table"
    )
    given = arguments.parse_args()

    torch.set_float32_matmul_precision("high")
    build = partial(
        GPT, given.vocabulary, given.context, depth=given.depth, d_head=given.width // given.heads
    )
    muon = Setup(
        build,
        given.width,
        base_width=given.width // 2,
        lr=LR,
        optimizer=partial(Orthogonal, fused=True),
    )
    model = muon.model.to(DEVICE)
    tokens = torch.randint(given.vocabulary, (given.batch, given.context + 1), device=DEVICE)
    steps = optimizer_steps(muon)
    both = partial(backward, model, tokens, torch.compile(model))

    table = new_table(f"{given.depth} layers, width {given.width}", DEVICE)
    training = {"none": together(both)} | {
        name: together(both, step) for name, step in steps.items()
    }
    alone = {name: together(step) for name, step in steps.items()}
    for label, makers, targets in (
        (f"{given.batch} x {given.context} tokens", training, {"Muon": TARGET}),
        ("the optimizer alone", alone, None),
    ):
        times = alternate(makers, given.seconds, builds=1, queue=STEPS)
        add_rows(table, label, times, "AdamW, fused", targets)
    show(table)


if __name__ == "__main__":
    main()
