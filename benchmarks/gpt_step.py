"""Training steps of a large GPT on one GPU: a plain nanoGPT-shaped step, and mupl's model under SP and under muP.

    python benchmarks/gpt_step.py              # 12 layers, context 1024, vocabulary 50304, widths 1024 and 2048
    python benchmarks/gpt_step.py cpu          # the same code, tiny

Each step is compiled, in bfloat16 by autocast, with a fused AdamW and a batch that is already there. Tokens a second,
and the model FLOPs utilisation: 6 FLOPs a token for each parameter of a matrix product and 12 * depth * width * context
for attention (Chowdhery et al. 2022, appendix B, which counts the full square), over the peak of a Hopper GPU without
sparsity, 989 TFLOP/s.
"""

import statistics
import sys
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from timing import add_rows, alternate, new_table, show
from torch import Tensor, nn

from mupl.models import GPT
from mupl.nn.initialize import parameters
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
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = (
            nn.Linear(width, 3 * width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        self.up, self.down = (
            nn.Linear(width, 4 * width, bias=False),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """What mupl.models.GPT(positions="learned") computes, in the shape of nanoGPT's, readout not tied."""

    def __init__(self, width: int, depth: int, context: int, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(PlainBlock(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, bias=False)
        self.readout = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        return self.readout(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))


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


def main(device: str = "cuda") -> None:
    sizes = {"depth": DEPTH, "context": CONTEXT, "vocabulary": VOCABULARY}
    batches, seconds, queue = BATCH, 15.0, 4
    if device == "cpu":
        sizes, batches, seconds, queue = (
            {"depth": 2, "context": 64, "vocabulary": 256},
            {128: 4},
            2.0,
            1,
        )
    table = new_table("Training steps of GPTs", device)
    for width, batch in batches.items():
        makers = {
            "plain": partial(plain, width, batch, sizes, device),
            "sp": partial(ours, "sp", width, batch, sizes, device),
            "mup": partial(ours, "mup", width, batch, sizes, device),
        }
        times = alternate(makers, seconds, builds=1, queue=queue)
        add_rows(table, f"width {width}, batch {batch}", times, "sp", {"mup": MUP_TARGET})
        tokens = batch * sizes["context"]
        with torch.device("meta"):
            matrices = sum(p.numel() for p in PlainGPT(width, **sizes).parameters() if p.dim() == 2)
        matrices -= (sizes["vocabulary"] + sizes["context"]) * width  # embeddings are looked up
        flops = tokens * (6 * matrices + 12 * sizes["depth"] * width * sizes["context"])
        for key, values in times.items():
            seconds_a_step = statistics.median(values)
            mfu = f", MFU {flops / seconds_a_step / PEAK:.3f}" if device == "cuda" else ""
            target = f" (target {MFU_TARGET[width]})" if mfu and width in MFU_TARGET else ""
            print(
                f"width {width}: {key}: {tokens / seconds_a_step:,.0f} tokens/s{mfu}{target}",
                flush=True,
            )
        if device == "cuda":
            torch.cuda.empty_cache()
    show(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
