"""Training steps of a stack of transformers beside a plain loop, compiled, that trains its members one at a time.

    python benchmarks/stacked_gpt.py   # on CUDA: 4 layers, context 256, batch 32, bfloat16, AdamW, 36 members

The plain loop has the same model, compiled by torch.compile, a fused AdamW and no synchronisation.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import add_rows, alternate, many, new_table, ratios, show

from mupl.data.text import Tokens
from mupl.models import GPT
from mupl.training.module import TrainingModule
from mupl.training.stack import Stack

MEMBERS, CONTEXT, BATCH, VOCABULARY = 36, 256, 32, 256
TARGETS = {64: 20, 128: 12, 256: 5}  # width: target


def build(width: int, depth: int = 4) -> GPT:
    return GPT(VOCABULARY, CONTEXT, width, depth)


def plain(width: int) -> Callable[[], object]:
    model = build(width).cuda()
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    crops = torch.randint(VOCABULARY, (BATCH, CONTEXT + 1), device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            logits = compiled(crops[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), crops[:, 1:].flatten())
        loss.backward()
        optimizer.step()

    return step


def stacked(width: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(VOCABULARY, (1_000_000,), generator=generator).to(torch.uint8)
    with torch.device("meta"):
        modules = [
            TrainingModule(build, width, base_width=64, lr=1e-4 * (1 + i), parametrization="mup" if i % 2 else "sp")
            for i in range(MEMBERS)
        ]
    tokens = Tokens(text, text[:10_000], VOCABULARY, CONTEXT)
    stack = Stack(modules, tokens, batch_size=BATCH, max_steps=10_000, device="cuda", autocast=torch.bfloat16)
    stack.train(5)
    return lambda: stack.train(stack.k + 1)


def main() -> None:
    table = new_table(f"Training steps of GPTs on {torch.cuda.get_device_name()}")
    for width, target in TARGETS.items():
        makers = {"plain": partial(many, plain, 5, width), "stack": partial(many, stacked, 5, width)}
        times = {name: [t / 5 for t in values] for name, values in alternate(makers, 8, builds=1).items()}
        add_rows(table, f"width {width}, {MEMBERS} members", times, "stack")
        faster = MEMBERS * statistics.median(ratios(times, "plain", "stack"))
        print(f"width {width}: models x steps a second over the plain loop {faster:.2f} (target {target})", flush=True)
        torch.cuda.empty_cache()
    show(table)


if __name__ == "__main__":
    sys.exit(main())
