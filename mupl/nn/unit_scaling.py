"""Operations whose outputs and gradients have unit variance where their inputs have (Blake et al. 2023, 2024, u-muP).

Forward and backward multipliers are separate where that gives all gradients before it one factor: at weights, at the
readout and around residual branches. Elsewhere a `*_scale` multiplies the output, and so the gradient too.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.nn.layers import ScaledLinear, scaled
from mupl.nn.multipliers import Multiplier


def linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    forward: float,
    backward: float,
    amplified: float | Tensor = 1.0,
) -> Tensor:
    """`forward * (x W^T + b)`; gradients: of x times `backward`, of W and b the sum over N examples over sqrt(N).

    x: (..., in), W: (out, in) -> (..., out). amplified: a number, or (out,), by which gradients of the outputs come
    multiplied, from a `scaled(y, 1, amplified)` further on: W and b keep it, x is freed of it. So what lies between has
    gradients of another scale, and what comes before has those of the loss.
    """
    root = (x.numel() // x.shape[-1]) ** -0.5 * amplified
    b = None if b is None else scaled(b, 1, root)
    w = scaled(w, 1, root[:, None] if isinstance(root, Tensor) else root)
    return scaled(F.linear(scaled(x, 1, backward), w, b), forward, 1 / amplified)


def embedding(tokens: Tensor, w: Tensor) -> Tensor:
    """Rows of W (vocabulary, d), with its gradient over sqrt(tokens / vocabulary), how often each row is looked up."""
    return F.embedding(tokens, scaled(w, 1, (len(w) / tokens.numel()) ** 0.5))


def gelu_scale(mult: float = 1.0) -> float:
    """1 / std of `gelu(mult x) / mult`: from 2 at small mult (x / 2) to sqrt(2 / (1 - 1 / pi)) at large (relu)."""
    return _between(1 / (1 + 0.25 / mult**2), 2, math.sqrt(2 / (1 - 1 / math.pi)))


def silu_glu_scale(mult: float = 1.0) -> float:
    """1 / std of `x silu(mult gate) / mult`: from 2 at small mult to sqrt(2) at large."""
    return _between(1 / (1 + 1 / mult**2), 2, math.sqrt(2))


def attention_scale(length: int, d_head: int, mult: float = 1.0) -> float:
    """1 / std of causal attention over `length` tokens with logits mult / d_head q.k.

    From sqrt(length / log(length)) of uniform weights (mult small) to 1 of one-hot ones.
    """
    uniform = math.sqrt(math.log(length) / length) if length > 1 else 1.0
    return 1 / _between(1 / (1 + 4 * d_head / mult**2), uniform, 1.0)


def logit_gradient_scale(length: int, d_head: int, mult: float = 1.0) -> float:
    """1 / RMS of the gradients of q and k in causal attention over `length` tokens, times `attention_scale`.

    Token i sees i tokens with weights p = 1/i. From unit v and unit gradients g of the outputs, its logits get
    p (g.v_j - mean_k g.v_k), of variance d_head (1 - 1/i) / i^2, and its q the sum over j of that times
    mult / d_head k_j, of variance mult^2 / d_head (1 - 1/i) / i; over all k the sum is the same. For tokens that are
    independent and weights that are nearly uniform, mult^2 << 4 d_head. (Not in the published u-muP.)
    """
    if length == 1:
        return 1.0  # whose softmax has no gradient
    mean = sum((1 - 1 / i) / i for i in range(1, length + 1)) / length
    return math.sqrt(d_head / mean) / mult / attention_scale(length, d_head, mult)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy, with unit gradients of the logits: their sum, not mean, times V / sqrt(V - 1).

    logits: (..., V), target: (...) class indices.
    """
    size = logits.shape[-1]
    logits = scaled(logits.flatten(0, -2), 1, size / math.sqrt(size - 1))
    return scaled(F.cross_entropy(logits, target.flatten(), reduction="sum"), 1 / target.numel())


def residual_tau(
    index: int, branches: int, mult: float = 1.0, attention_ratio: float = 1.0
) -> float:
    """tau of branch `index` of a stack that alternates attention and MLP (u-muP, appendix G).

    All attention branches contribute alike to its output, and all MLPs, `attention_ratio` the one over the other;
    `mult` is the ratio of their mean contribution to that of the embedding.
    """
    mlp = mult * math.sqrt(2 / (1 + attention_ratio**2))
    attention = attention_ratio * mlp
    before = (index + 1) // 2 * attention**2 + index // 2 * mlp**2
    return (mlp if index % 2 else attention) / math.sqrt(branches / 2 + before)


class UnitResidual(Multiplier):
    """`(x + tau branch(x)) / sqrt(1 + tau^2)`; the branch sees gradients that are not multiplied by its share yet."""

    def __init__(self, tau: float) -> None:
        super().__init__("residual", tau)

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:  # type: ignore[override]
        norm = math.sqrt(1 + self.value**2)
        share, skip = self.value / norm, 1 / norm
        return scaled(branch(scaled(x, 1, share)), share) + skip * x


class UnitLinear(ScaledLinear):
    """`linear` with the weight's multiplier as `forward` and, but for `readout`, as `backward`.

    Weights start as N(0, 1). readout: let gradients pass with unit variance, `backward = out_features^-1/2`. The buffer
    `amplified` (out,), at first ones, is that of `linear`.
    """

    amplified: Tensor

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, readout: bool = False
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.readout = readout
        self.register_buffer("amplified", torch.ones(out_features), persistent=False)

    def reset_parameters(self) -> None:
        self.draw(std=1.0)

    def forward(self, x: Tensor) -> Tensor:
        forward = self.scale.weight_mult
        backward = self.out_features**-0.5 if self.readout else forward
        return linear(x, self.weight, self.bias, forward, backward, self.amplified)


class UnitEmbedding(nn.Embedding):
    """`embedding` as a layer."""

    def forward(self, tokens: Tensor) -> Tensor:
        return embedding(tokens, self.weight)


def scales_gradients(model: nn.Module) -> bool:
    """Whether operations have backward multipliers of their own: then a weight's gradient is not that of the loss."""
    return any(
        isinstance(module, UnitLinear | UnitEmbedding | UnitResidual) for module in model.modules()
    )


def _between(weight: float, low: float, high: float) -> float:
    """Logarithmic interpolation: low^(1 - weight) high^weight."""
    return low ** (1 - weight) * high**weight
