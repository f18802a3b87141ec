"""Training steps of a large GPT on one GPU: plain, in nanoGPT's shape, and mupl's in SP and muP.

    python benchmarks/gpt_step.py       # 12 layers, context 1024, widths 1024 and 2048
    python benchmarks/gpt_step.py cpu   # the same code, tiny

Each step is compiled, in bfloat16 by autocast, with a fused AdamW and a batch that is already
there. Tokens a second, and the model FLOPs utilisation: 6 FLOPs a token for each parameter of a
matrix product and 12 * depth * width * context for attention (Chowdhery et al. 2022, appendix B,
which counts the full square), over the peak of a Hopper GPU without sparsity, 989 TFLOP/s.
"""

import statistics
import sys
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from timing import Times, add_rows, alternate, new_table, show
from torch import Tensor, nn

from mupl.models import GPT
from mupl.nn.tensors import parameters
from mupl.optim.groups import param_groups
from mupl.training.setup import Setup, cross_entropy

PEAK = 989e12  # FLOP/s of products of bfloat16
DEPTH, CONTEXT, VOCABULARY, D_HEAD, BASE_WIDTH = 12, 1024, 50304, 64, 256
BATCH = {1024: 32, 2048: 16}  # crops a step
MUP_TARGET, MFU_TARGET = 1.01, {2048: 0.45}


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
    """What mupl.models.GPT(positions="learned") computes, written as nanoGPT is."""

    def __init__(self, width: int, depth: int, context: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        blocks = [PlainBlock(width) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, bias=False)
        self.readout = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(places)
        x = self.blocks(x)
        return self.readout(self.norm(x))


def training_step(
    model: nn.Module, groups: Iterable[object], batch: int, context: int, vocabulary: int
) -> Callable[[], object]:
    device = next(model.parameters()).device.type
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)  # type: ignore[arg-type]
    crops = torch.randint(vocabulary, (batch, context + 1), device=device)

    @torch.compile
    def loss_of(x: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return cross_entropy(model(x), target)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(crops[:, :-1], crops[:, 1:]).backward()
        optimizer.step()

    return step


def plain(width: int, batch: int, sizes: dict[str, int], device: str) -> Callable[[], object]:
    model = PlainGPT(width, **sizes).to(device)
    return training_step(model, model.parameters(), batch, sizes["context"], sizes["vocabulary"])


def ours(
    parametrization: str, width: int, batch: int, sizes: dict[str, int], device: str
) -> Callable[[], object]:
    def build(width: int) -> nn.Module:
        return GPT(width=width, d_head=D_HEAD, positions="learned", **sizes)

    setup = Setup(
        build,
        width,
        base_width=BASE_WIDTH,
        lr=1e-4,
        weight_decay=0.1,
        parametrization=parametrization,
    )
    model = setup.model.to(device)
    groups = param_groups(parameters(model, setup.scales), setup.scales)
    return training_step(model, groups, batch, sizes["context"], sizes["vocabulary"])


def flops_of_step(width: int, batch: int, sizes: dict[str, int]) -> int:
    """6 FLOPs a token for each parameter of a matrix product, and attention's."""
    with torch.device("meta"):
        model = PlainGPT(width, **sizes)
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    looked_up = (sizes["vocabulary"] + sizes["context"]) * width
    of_attention = 12 * sizes["depth"] * width * sizes["context"]
    of_token = 6 * (matrices - looked_up) + of_attention
    return batch * sizes["context"] * of_token


def print_throughput(times: Times, width: int, tokens: int, flops: int, device: str) -> None:
    for name, values in times.items():
        seconds = statistics.median(values)
        line = f"width {width}: {name}: {tokens / seconds:,.0f} tokens/s"
        if device == "cuda":
            line += f", MFU {flops / seconds / PEAK:.3f}"
            if width in MFU_TARGET:
                line += f" (target {MFU_TARGET[width]})"
        print(line, flush=True)


def main(device: str = "cuda") -> None:
    sizes = {"depth": DEPTH, "context": CONTEXT, "vocabulary": VOCABULARY}
    batches = BATCH
    seconds = 15.0
    queue = 4
    if device == "cpu":
        sizes = {"depth": 2, "context": 64, "vocabulary": 256}
        batches = {128: 4}
        seconds = 2.0
        queue = 1
    table = new_table("Training steps of GPTs", device)
    for width, batch in batches.items():
        makers = {
            "plain": partial(plain, width, batch, sizes, device),
            "sp": partial(ours, "sp", width, batch, sizes, device),
            "mup": partial(ours, "mup", width, batch, sizes, device),
        }
        times = alternate(makers, seconds, builds=1, queue=queue)
        label = f"width {width}, batch {batch}"
        add_rows(table, label, times, "sp", {"mup": MUP_TARGET})
        tokens = batch * sizes["context"]
        flops = flops_of_step(width, batch, sizes)
        print_throughput(times, width, tokens, flops, device)
        if device == "cuda":
            torch.cuda.empty_cache()
    show(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
