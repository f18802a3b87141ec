"""Models as people write them themselves, as functions of width."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A language model by an LSTM or a GRU, whose readout may share the matrix of the embedding."""

    def __init__(self, width: int, kind: Callable[..., nn.RNNBase], tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.cells = kind(width, width, batch_first=True)
        self.readout = nn.Linear(width, 11, bias=not tied)
        if tied:
            self.readout.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.cells(self.embedding(tokens))
        return self.readout(hidden)


class UNet(nn.Module):
    """One level down by a convolution and up by a transposed one, with group norms and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.enter_norm = nn.GroupNorm(8, width)
        self.down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.down_norm = nn.GroupNorm(8, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.up_norm = nn.GroupNorm(8, width)
        self.merge = nn.Conv2d(2 * width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = F.silu(self.enter_norm(self.enter(images)))
        coarse = F.silu(self.down_norm(self.down(fine)))
        back = F.silu(self.up_norm(self.up(coarse)))
        return self.out(F.silu(self.merge(torch.cat([fine, back], dim=1))))


class DiTBlock(nn.Module):
    """Attention and a feed-forward layer; shifts, scales and gates of both follow a condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return x of shape (N, L, width), for a condition of shape (N, width)."""
        numbers = self.modulation(condition)[:, None].chunk(6, dim=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = numbers
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(h, h, h, need_weights=False)[0]
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.mlp(h)


class DiT(nn.Module):
    """A diffusion transformer with adaLN-zero: modulations and readout start at 0.

    Its table of positions is frozen, as in the original (Peebles & Xie 2022).
    """

    def __init__(self, width: int, d_head: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(1, 4, width), requires_grad=False)
        self.time = nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(11, width)
        self.block = DiTBlock(width, width // d_head)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.readout = nn.Linear(width, 3 * 4 * 4)
        for layer in (self.block.modulation[1], self.modulation[1], self.readout):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, times: Tensor, classes: Tensor) -> Tensor:
        """Return the noise in images (N, 3, 8, 8), at times (N,) of images of classes (N,)."""
        x = self.patches(images).flatten(2).mT + self.positions
        waves = times[:, None] * torch.arange(1, 5)
        condition = self.time(torch.cat([waves.sin(), waves.cos()], dim=1)) + self.classes(classes)
        x = self.block(x, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        out = self.readout(self.norm(x) * (1 + scale) + shift)  # (N, 4, 48)
        return F.fold(out.mT, (8, 8), kernel_size=4, stride=4)


class LowRank(nn.Linear):
    """LoRA (Hu et al. 2021): a frozen layer, and beside it B A of rank 4 with B = 0."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out)
        self.weight.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.empty(4, fan_in))
        self.lora_b = nn.Parameter(torch.zeros(fan_out, 4))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.lora_a), self.lora_b)


def lora(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, width).requires_grad_(False),
        nn.Tanh(),
        LowRank(width, width),
        nn.Tanh(),
        LowRank(width, width),
        nn.Tanh(),
        nn.Linear(width, 11),
    )


class Readouts(nn.Module):
    """Three readouts of two layers, in a nested output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.second = nn.Linear(width, width)
        self.early = nn.Linear(width, 11)
        self.late = nn.Linear(width, 11)
        self.bare = nn.Linear(width, 11, bias=False)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        first = torch.tanh(self.first(x))
        second = torch.tanh(self.second(first))
        return {"early": self.early(first), "late": [self.late(second), self.bare(second)]}


def shared(width: int) -> nn.Module:
    """One hidden layer that is called twice."""
    hidden = nn.Linear(width, width)
    return nn.Sequential(
        nn.Linear(8, width), nn.Tanh(), hidden, nn.Tanh(), hidden, nn.Tanh(), nn.Linear(width, 11)
    )


def frozen(width: int) -> nn.Module:
    """The first layer is not trained; a batch norm comes after it."""
    return nn.Sequential(
        nn.Linear(8, width).requires_grad_(False),
        nn.BatchNorm1d(width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, 11),
    )
