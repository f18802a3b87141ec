"""Training steps of a stack of transformers beside a compiled plain loop of one member at a time.

    python benchmarks/stacked_gpt.py
    python benchmarks/stacked_gpt.py --kernels 256   # where the time of a step goes, at width 256

On CUDA: 36 members of 4 layers, context 256, batch 32, bfloat16, AdamW.

The plain loop has the same model, compiled by torch.compile, a fused AdamW and no synchronisation.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from kernels import as_text, kernels_of
from timing import add_rows, alternate, new_table, print_speed_up, show

from mupl.data.text import Tokens
from mupl.models import GPT
from mupl.stacked.stack import Stack
from mupl.training.setup import Setup, cross_entropy

MEMBERS, CONTEXT, BATCH, VOCABULARY = 36, 256, 32, 256
TARGETS = {64: 20, 128: 12, 256: 5}  # width: target


def build(width: int, depth: int = 4) -> GPT:
    return GPT(VOCABULARY, CONTEXT, width, depth=depth)


def plain(width: int) -> Callable[[], object]:
    model = build(width).cuda()
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    crops = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = cross_entropy(compiled(crops[:, :-1]), crops[:, 1:])
        loss.backward()
        optimizer.step()

    return step


def members(build: Callable[[int], GPT], width: int, rates: Sequence[float]) -> list[Setup]:
    """The members of a stack without weights, one a learning rate, in turn in SP and muP."""
    with torch.device("meta"):
        return [
            Setup(build, width, base_width=64, lr=lr, parametrization="mup" if i % 2 else "sp")
            for i, lr in enumerate(rates)
        ]


def stacked(width: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(VOCABULARY, (1_000_000,), generator=generator).to(torch.uint8)
    setups = members(build, width, [1e-4 * (1 + i) for i in range(MEMBERS)])
    tokens = Tokens(text, text[:10_000], VOCABULARY, CONTEXT)
    stack = Stack(
        setups, tokens, batch_size=BATCH, max_steps=10_000, device="cuda", autocast=torch.bfloat16
    )
    stack.train(5)
    return lambda: stack.train(stack.k + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernels", type=int, metavar="WIDTH")
    arguments = parser.parse_args()
    if arguments.kernels is not None:
        title = f"{torch.cuda.get_device_name()}, width {arguments.kernels}"
        print(as_text(title, kernels_of(stacked(arguments.kernels))))
        return
    table = new_table("Training steps of GPTs", "cuda")
    for width, target in TARGETS.items():
        makers = {"plain": partial(plain, width), "stack": partial(stacked, width)}
        times = alternate(makers, 8, builds=1, queue=5)
        add_rows(table, f"width {width}, {MEMBERS} members", times, "stack")
        print_speed_up(times, width, MEMBERS, target)
        torch.cuda.empty_cache()
    show(table)


if __name__ == "__main__":
    main()
