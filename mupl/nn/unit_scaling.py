"""Operations whose outputs and gradients have unit variance where their inputs have.

(Blake et al. 2023, unit scaling; 2024, u-muP.) Forward and backward multipliers are separate where
that gives one factor to all gradients before the operation: at weights, at the readout and around
residual branches. Elsewhere a `*_scale` multiplies the output, and so the gradient too.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.nn.dropout import Dropout
from mupl.nn.layers import LinearScale, ScaledLinear
from mupl.nn.multipliers import Multiplier
from mupl.nn.scaled_parameters import scaled


def linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    scale: LinearScale,
    backward: float,
    amplified: float | Tensor = 1.0,
) -> Tensor:
    """Return `weight_mult * x W^T + bias_mult * b` for x (..., in) and W (out, in) -> (..., out).

    The gradient of x is multiplied by `backward` instead of `weight_mult`. Gradients of W and b are
    sums over N examples over sqrt(N), without the multipliers, times `weight_grad` and `bias_grad`.

    Args:
        scale: the multipliers and the gradient factors.
        backward: multiplier of the gradient of x.
        amplified: a number or (out,), the factor by which gradients of the outputs come multiplied
            from a `scaled(y, 1, amplified)` further on. W and b keep it, x is freed of it. So what
            lies between has gradients of another scale, and what comes before has the loss' own.
    """
    examples = x.numel() // x.shape[-1]
    averaging = examples**-0.5
    w_gradient = amplified * averaging * scale.weight_grad
    if isinstance(w_gradient, Tensor):
        w_gradient = w_gradient[:, None]
    product = F.linear(scaled(x, 1, backward), scaled(w, 1, w_gradient))
    y = scaled(product, scale.weight_mult, 1 / amplified)
    if b is None:
        return y
    return y + scaled(b, scale.bias_mult, averaging * scale.bias_grad)


def embedding(tokens: Tensor, w: Tensor) -> Tensor:
    """Return rows of W (vocabulary, d).

    Its gradient is divided by sqrt(tokens / vocabulary), for how often each row is looked up.
    """
    lookups = tokens.numel() / len(w)
    return F.embedding(tokens, scaled(w, 1, lookups**-0.5))


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Return x with entries set to 0 with probability p, the others over sqrt(1 - p).

    So x with mean 0 and its gradient keep their std; plain dropout divides by
    1 - p, which keeps the mean. When not training, x itself is returned.
    """
    if not training:
        return x
    return math.sqrt(1 - p) * F.dropout(x, p)


def gelu_scale(mult: float = 1.0) -> float:
    """Return 1 / std of `gelu(mult x) / mult`.

    It goes from 2 at small mult (x / 2) to sqrt(2 / (1 - 1 / pi)) at large mult (relu).
    """
    relu = math.sqrt(2 / (1 - 1 / math.pi))
    weight = 1 / (1 + 0.25 / mult**2)
    return _between(weight, 2, relu)


def silu_glu_scale(mult: float = 1.0) -> float:
    """Return 1 / std of `x silu(mult gate) / mult`: from 2 at small mult to sqrt(2) at large."""
    weight = 1 / (1 + 1 / mult**2)
    return _between(weight, 2, math.sqrt(2))


def attention_scale(
    length: int,
    d_head: int,
    mult: float = 1.0,
) -> float:
    """Return 1 / std of causal attention over `length` tokens with logits mult / d_head q.k.

    It goes from sqrt(length / log(length)) of uniform weights (mult small) to 1 of one-hot ones.
    """
    uniform = 1.0
    if length > 1:
        uniform = math.sqrt(math.log(length) / length)
    weight = 1 / (1 + 4 * d_head / mult**2)
    return 1 / _between(weight, uniform, 1.0)


def logit_gradient_scale(
    length: int,
    d_head: int,
    mult: float = 1.0,
) -> float:
    """Return 1 / RMS of the gradients of q and k in attention, times `attention_scale`.

    Attention is causal, over `length` tokens. Token i sees i tokens with weights p = 1/i. From unit
    v and unit gradients g of the outputs, its logits get p (g.v_j - mean_k g.v_k), of variance
    d_head (1 - 1/i) / i^2. Its q gets the sum over j of that times mult / d_head k_j, of variance
    mult^2 / d_head (1 - 1/i) / i; over all k the sum is the same. This holds for tokens that are
    independent and weights that are nearly uniform, mult^2 << 4 d_head. (Not in the published
    u-muP.)
    """
    if length == 1:
        return 1.0  # whose softmax has no gradient
    total = sum((1 - 1 / i) / i for i in range(1, length + 1))
    rms = mult * math.sqrt(total / length / d_head)
    return 1 / rms / attention_scale(length, d_head, mult)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (..., V) against class indices (...).

    Gradients of the logits are unit: the gradients of the sum, not the mean, times V / sqrt(V - 1).
    """
    size = logits.shape[-1]
    rows = logits.reshape(-1, size)
    rows = scaled(rows, 1, size / math.sqrt(size - 1))
    total = F.cross_entropy(rows, target.reshape(-1), reduction="sum")
    return scaled(total, 1 / target.numel())


def residual_tau(
    index: int,
    branches: int,
    mult: float = 1.0,
    attention_ratio: float = 1.0,
) -> float:
    """Return tau of branch `index` of a stack that alternates attention and MLP.

    All attention branches contribute alike to the stack's output, and all MLPs; `attention_ratio`
    is the one contribution over the other, `mult` is their mean contribution over the embedding's.
    (u-muP, appendix G.)
    """
    mlp = mult * math.sqrt(2 / (1 + attention_ratio**2))
    attention = attention_ratio * mlp
    attentions_before = (index + 1) // 2
    mlps_before = index // 2
    before = attentions_before * attention**2 + mlps_before * mlp**2
    own = mlp if index % 2 else attention
    return own / math.sqrt(branches / 2 + before)


class UnitResidual(Multiplier):
    """Add a branch to the residual stream: `(x + tau branch(x)) / sqrt(1 + tau^2)`.

    The branch sees gradients that are not multiplied by its share yet.
    """

    def __init__(self, tau: float) -> None:
        super().__init__("residual", tau)

    def forward(  # type: ignore[override]
        self, x: Tensor, branch: Callable[[Tensor], Tensor]
    ) -> Tensor:
        norm = math.sqrt(1 + self.value**2)
        share = self.value / norm
        skip = 1 / norm
        y = branch(scaled(x, 1, share))
        return scaled(y, share) + skip * x


class UnitLinear(ScaledLinear):
    """`linear` as a layer, with all multipliers and gradient factors of a `ScaledLinear`.

    Weights start as N(0, 1). The multiplier of the weight is `backward` too, but for a readout.
    The buffer `amplified` (out,), at first ones, is the argument of `linear`.

    Args:
        readout: let gradients pass with unit variance, `backward = out_features^-1/2`.
    """

    amplified: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        readout: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.readout = readout
        self.register_buffer("amplified", torch.ones(out_features), persistent=False)

    def reset_parameters(self) -> None:
        self.init_normal_(std=1.0)

    def forward(self, x: Tensor) -> Tensor:
        backward = self.scale.weight_mult
        if self.readout:
            backward = self.out_features**-0.5
        return linear(x, self.weight, self.bias, self.scale, backward, self.amplified)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, readout={self.readout}"


class UnitEmbedding(nn.Embedding):
    """`embedding` as a layer."""

    def forward(self, tokens: Tensor) -> Tensor:
        return embedding(tokens, self.weight)


class UnitDropout(Dropout):
    """`dropout` as a layer, with the masks of `Dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return math.sqrt(1 - self.p) * y if self.training else y


def scales_gradients(model: nn.Module) -> bool:
    """Say whether operations have backward multipliers of their own.

    Then the weights have other gradients than the loss gives.
    """
    kinds = (UnitLinear, UnitEmbedding, UnitResidual)
    return any(isinstance(module, kinds) for module in model.modules())


def has_unit_readout(model: nn.Module) -> bool:
    """Say whether a readout passes unit gradients on, by a backward multiplier of its own."""
    return any(isinstance(module, UnitLinear) and module.readout for module in model.modules())


def _between(weight: float, low: float, high: float) -> float:
    """Interpolate between the logarithms: low^(1 - weight) high^weight."""
    return low ** (1 - weight) * high**weight
