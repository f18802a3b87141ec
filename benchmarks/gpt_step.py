"""Training steps of a large GPT on one GPU: plain, in nanoGPT's shape, and mupl's in SP and muP.

    python benchmarks/gpt_step.py           # 124M parameters: 12 layers of width 768
    python benchmarks/gpt_step.py 350M      # 24 layers of width 1024
    python benchmarks/gpt_step.py wide      # 12 layers of width 2048
    python benchmarks/gpt_step.py cpu       # the same code, tiny

Context 1024, GPT-2's vocabulary, a readout that shares the embedding's matrix, exact GELU, learned
positions, no biases, no dropout, fused attention. Each step is compiled, in bfloat16 by autocast,
with a fused AdamW and a batch that is already there. Tokens a second, and the model FLOPs
utilisation: 6 FLOPs a token for each parameter of a matrix product and 12 * depth * width * context
for attention (Chowdhery et al. 2022, appendix B, which counts the full square), over the peak of a
Hopper GPU without sparsity, 989 TFLOP/s.
"""

import argparse
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from compiled_step import print_throughput, training_step
from timing import Step, add_rows, alternate, new_table, show
from torch import Tensor, nn

from mupl.models import GPT
from mupl.nn.tensors import parameters
from mupl.optim.groups import param_groups
from mupl.training.setup import Setup

D_HEAD = 64
TARGET = 1.01  # of a step under muP over one under SP
PLAIN_TARGET = 1.02  # and over the plain one


class Size(NamedTuple):
    """Of a model and its batches."""

    width: int
    depth: int
    batch: int  # crops a step
    context: int = 1024
    vocabulary: int = 50304


SIZES = {
    "124M": Size(768, 12, batch=32),
    "350M": Size(1024, 24, batch=16),
    "wide": Size(2048, 12, batch=16),
    "cpu": Size(128, 1, batch=4, context=64, vocabulary=256),
}


class PlainBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // D_HEAD
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        hidden = F.gelu(self.up(self.norm2(x)))
        return x + self.down(hidden)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        y = F.scaled_dot_product_attention(
            self.split(q),
            self.split(k),
            self.split(v),
            is_causal=True,
        )
        return self.out(y.transpose(1, 2).flatten(-2))

    def split(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, heads, tokens, d_head)"""
        x = x.unflatten(-1, (self.heads, -1))
        return x.transpose(1, 2)


class PlainGPT(nn.Module):
    """What mupl.models.GPT(positions="learned", tied=True) computes, written as nanoGPT is."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.context, size.width)
        blocks = [PlainBlock(size.width) for _ in range(size.depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(size.width, bias=False)
        self.readout = nn.Linear(size.width, size.vocabulary, bias=False)
        self.readout.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        x = self.blocks(x)
        return self.readout(self.norm(x))


def random_crops(size: Size, device: str) -> Tensor:
    return torch.randint(size.vocabulary, (size.batch, size.context + 1), device=device)


def plain(size: Size, device: str) -> Step:
    model = PlainGPT(size).to(device)
    return training_step(model, model.parameters(), random_crops(size, device))


def ours(parametrization: str, size: Size, device: str) -> Step:
    def build(width: int) -> nn.Module:
        return GPT(
            size.vocabulary,
            size.context,
            width,
            depth=size.depth,
            d_head=D_HEAD,
            positions="learned",
            tied=True,
        )

    setup = Setup(
        build,
        size.width,
        base_width=size.width // 2,
        lr=1e-4,
        weight_decay=0.1,
        parametrization=parametrization,
    )
    model = setup.model.to(device)
    groups = param_groups(parameters(model, setup.scales), setup.scales)
    return training_step(model, groups, random_crops(size, device))


def flops_of_step(size: Size) -> int:
    """6 FLOPs a token for each parameter of a matrix product, and attention's."""
    with torch.device("meta"):
        model = PlainGPT(size)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    multiplied = matrices - model.positions.weight.numel()
    of_attention = 12 * size.depth * size.width * size.context
    return size.batch * size.context * (6 * multiplied + of_attention)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("size", nargs="?", default="124M", choices=SIZES)
    arguments.add_argument("--seconds", type=float, default=20.0, help="of measuring")
    given = arguments.parse_args()

    size = SIZES[given.size]
    device = "cpu" if given.size == "cpu" else "cuda"
    makers = {
        "plain": partial(plain, size, device),
        "sp": partial(ours, "sp", size, device),
        "mup": partial(ours, "mup", size, device),
    }
    times = alternate(makers, given.seconds, builds=1, queue=4 if device == "cuda" else 1)
    tokens = size.batch * size.context
    print_throughput(times, given.size, tokens, flops_of_step(size), device)
    for baseline, targets in (("sp", {"mup": TARGET}), ("plain", {"mup": PLAIN_TARGET})):
        table = new_table(f"A training step of a GPT of size {given.size}", device)
        add_rows(table, f"{size.depth} layers, width {size.width}", times, baseline, targets)
        show(table)


if __name__ == "__main__":
    main()
