"""A decoder-only transformer that knows nothing of parametrizations."""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.nn.layers import Embedding, LayerNorm, RMSNorm, ScaledLinear, scaled, times
from mupl.nn.multipliers import Multiplier, Residual, TiedReadout
from mupl.nn.unit_scaling import (
    UnitEmbedding,
    UnitLinear,
    UnitResidual,
    attention_scale,
    gelu_scale,
    logit_gradient_scale,
    residual_tau,
    silu_glu_scale,
)

Linear = Callable[[int, int], ScaledLinear]
CHOICES = {
    "norm": ("layernorm", "rmsnorm"),
    "activation": ("gelu", "swiglu"),
    "positions": ("rotary", "learned"),
}


class GPT(nn.Module):
    """Tokens (..., T) -> logits (..., T, vocabulary), each of the tokens up to its own.

    With r the residual multiplier, a block is `x += r attention(norm(x)); x += r mlp(norm(x))`, and a last norm comes
    before the readout; post-norm is `x = norm(x + r attention(x)); x = norm(x + r mlp(x))`. Attention is
    softmax(attention_mult / sqrt(d_head) q.k) v over the past. Initialised in the standard parametrization:
    `W ~ N(0, init_std^2 / fan_in)`, embeddings N(0, embedding_std^2), gains 1, biases 0.

    Args:
        vocabulary: number of tokens. context: largest T.
        width: of the residual stream. depth: number of blocks.
        d_head, heads: size and number of heads; give one of them, the other follows from the width and grows with it.
        group_size: heads that share a key and a value (grouped-query attention).
        norm: "layernorm" or "rmsnorm"; norm_gain: whether it has a gain (and, with `bias`, a bias).
        post_norm: norms after the residual sum instead of before each branch.
        activation: "gelu" or "swiglu"; mlp_ratio: hidden units of the MLP over width.
        positions: "rotary" (Su et al. 2021, base 10,000) or "learned".
        qk_norm: normalise queries and keys of each head.
        tied: read out by the embedding's matrix (logits times width^-1/2).
        input_mult, attention_mult, activation_mult, residual_mult, output_mult: tunable multipliers; that of an
            activation f makes it f(mult x) / mult.
        residual_attention_ratio: what attention adds to the stream over what MLPs add; with `unit_scaling` only.
        zero_readout: start the readout at 0.
        unit_scaling: operations of `mupl.nn.unit_scaling`, for `parametrization=umup`: attention logits are divided by
            d_head, residual sums normalised (`residual_tau`), and gradients of queries, keys and hidden units of MLPs
            are amplified to unit scale where they lie (`Attention.amplify`, `MLP.amplify`).

    Raises:
        ConfigError: naming the argument that is out of range.
    """

    # Of the arguments, those in which the members of one stack may differ (see `mupl.stacked.stack`)
    per_member: ClassVar = (
        "input_mult", "attention_mult", "activation_mult", "residual_mult", "output_mult", "init_std", "embedding_std",
        "zero_readout",
    )  # fmt: skip
    member_axis: ClassVar = True  # the parameters may have a leading member axis

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        depth: int = 4,
        d_head: int | None = 32,
        heads: int | None = None,
        group_size: int = 1,
        norm: str = "layernorm",
        norm_gain: bool = True,
        post_norm: bool = False,
        activation: str = "gelu",
        mlp_ratio: float = 4.0,
        positions: str = "rotary",
        qk_norm: bool = False,
        tied: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
        input_mult: float = 1.0,
        attention_mult: float = 1.0,
        activation_mult: float = 1.0,
        residual_mult: float = 1.0,
        residual_attention_ratio: float = 1.0,
        output_mult: float = 1.0,
        init_std: float = 1.0,
        embedding_std: float = 1.0,
        zero_readout: bool = False,
        unit_scaling: bool = False,
    ) -> None:
        super().__init__()
        for key, value in (("norm", norm), ("activation", activation), ("positions", positions)):
            if value not in CHOICES[key]:
                raise ConfigError(f"model.{key}={value}: must be one of {', '.join(CHOICES[key])}")
        if depth < 1:
            raise ConfigError(f"depth={depth}: must be a whole number >= 1")
        heads, d_head = _heads(width, heads, d_head)
        if group_size < 1 or heads % group_size:
            raise ConfigError(
                f"model.group_size={group_size}: must divide the number of heads, {heads}"
            )
        if positions == "rotary" and d_head % 2:
            raise ConfigError(f"model.d_head={d_head}: must be even for rotary positions")
        if tied and zero_readout:
            raise ConfigError(
                "model.zero_readout=true: a tied readout is the embedding and cannot start at 0"
            )
        for key, std in (("init_std", init_std), ("embedding_std", embedding_std)):
            if std < 0:
                raise ConfigError(f"model.{key}={std}: must be >= 0")
        for key, given in (
            ("norm_gain", norm_gain),
            ("bias", bias),
            ("tied", tied),
            ("post_norm", post_norm),
        ):
            if unit_scaling and given:
                raise ConfigError(
                    f"model.{key}=true: unit scaling is without; say model.{key}=false"
                )
        self.context, self.input_mult, self.output_mult = context, input_mult, output_mult
        self.init_std, self.embedding_std, self.zero_readout = init_std, embedding_std, zero_readout

        linear = partial(UnitLinear if unit_scaling else ScaledLinear, bias=bias)
        logit_scale, value_scale, hidden_scale = attention_mult / math.sqrt(d_head), 1.0, 1.0
        if unit_scaling:
            logit_scale = attention_mult / d_head
            value_scale = attention_scale(context, d_head, attention_mult)
            hidden_scale = (gelu_scale if activation == "gelu" else silu_glu_scale)(activation_mult)
        rotary = Rotary(d_head, context) if positions == "rotary" else nn.Identity()
        new_norm: Callable[[int], nn.Module] = partial(RMSNorm, elementwise_affine=norm_gain)
        if norm == "layernorm":
            new_norm = partial(LayerNorm, elementwise_affine=norm_gain, bias=bias)

        def new_residual(index: int) -> Multiplier:
            if not unit_scaling:
                return Residual(residual_mult)
            return UnitResidual(
                residual_tau(index, 2 * depth, residual_mult, residual_attention_ratio)
            )

        def new_block(index: int) -> Block:
            qk_norms = (
                (new_norm(d_head), new_norm(d_head)) if qk_norm else (nn.Identity(), nn.Identity())
            )
            attention = Attention(
                width,
                heads,
                d_head,
                group_size,
                logit_scale,
                value_scale,
                linear,
                rotary,
                qk_norms,
                dropout,
            )
            mlp = MLP(
                width, round(mlp_ratio * width), activation, activation_mult, hidden_scale, linear
            )
            if unit_scaling:
                attention.amplify(logit_gradient_scale(context, d_head, attention_mult))
                mlp.amplify(
                    math.sqrt(mlp.down.in_features / width)
                )  # its gradients are sums over fewer terms
            residuals = (new_residual(2 * index), new_residual(2 * index + 1))
            return Block(
                attention, mlp, (new_norm(width), new_norm(width)), residuals, post_norm, dropout
            )

        new_embedding = UnitEmbedding if unit_scaling else Embedding
        self.embedding = new_embedding(vocabulary, width)
        self.positions = new_embedding(context, width) if positions == "learned" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(map(new_block, range(depth)))
        self.norm = nn.Identity() if post_norm else new_norm(width)
        if tied:
            self.readout: nn.Module = TiedReadout(width)
        elif unit_scaling:
            self.readout = UnitLinear(width, vocabulary, bias=False, readout=True)
        else:
            self.readout = ScaledLinear(width, vocabulary, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.embedding_std)
            elif isinstance(module, ScaledLinear):
                std = 0 if module is self.readout and self.zero_readout else self.init_std
                module.init_normal_(std / math.sqrt(module.in_features))
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (..., T) integers, T <= context -> logits (..., T, vocabulary); with a stack (S, ..., T, V)."""
        length = tokens.shape[-1]
        if length > self.context:
            raise ValueError(f"{length} tokens are more than the context of {self.context}")
        x = self.embedding(tokens)
        if self.positions is not None:
            places = torch.arange(length, device=tokens.device)
            x = x + self.positions(places.view(*[1] * (tokens.dim() - 1), -1))
        x = self.dropout(times(self.input_mult, x))
        for block in self.blocks:
            x = block(x)
        x = times(self.output_mult, self.norm(x))
        return (
            self.readout(x, self.embedding.weight)
            if isinstance(self.readout, TiedReadout)
            else self.readout(x)
        )

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        count: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """tokens (..., T) followed by `count` more, (..., T + count), each drawn given at most `context` before it.

        temperature: divides the logits; 0 takes the most likely token.
        """
        for _ in range(count):
            logits = self(tokens[..., -self.context :])[..., -1, :]
            if temperature == 0:
                drawn = logits.argmax(-1, keepdim=True)
            else:
                p = (logits / temperature).softmax(-1)
                drawn = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=generator).view(
                    *p.shape[:-1], 1
                )
            tokens = torch.cat([tokens, drawn], -1)
        return tokens


class Block(nn.Module):
    def __init__(
        self,
        attention: "Attention",
        mlp: "MLP",
        norms: tuple[nn.Module, nn.Module],
        residuals: tuple[Multiplier, Multiplier],
        post_norm: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm, self.attention, self.attention_residual = (
            norms[0],
            attention,
            residuals[0],
        )
        self.mlp_norm, self.mlp, self.mlp_residual = norms[1], mlp, residuals[1]
        self.dropout = nn.Dropout(dropout)
        self.post_norm = post_norm

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, width) -> the same shape."""
        if self.post_norm:
            x = self.attention_norm(
                self.attention_residual(x, lambda h: self.dropout(self.attention(h)))
            )
            return self.mlp_norm(self.mlp_residual(x, lambda h: self.dropout(self.mlp(h))))
        x = self.attention_residual(
            x, lambda h: self.dropout(self.attention(self.attention_norm(h)))
        )
        return self.mlp_residual(x, lambda h: self.dropout(self.mlp(self.mlp_norm(h))))


class Attention(nn.Module):
    """Causal self-attention, the means of values times `value_scale`; keys and values are one matrix, keys first."""

    def __init__(
        self,
        width: int,
        heads: int,
        d_head: int,
        group_size: int,
        logit_scale: float,
        value_scale: float,
        linear: Linear,
        rotary: nn.Module,
        qk_norms: tuple[nn.Module, nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        self.d_head, self.grouped, self.dropout, self.value_scale = (
            d_head,
            group_size > 1,
            dropout,
            value_scale,
        )
        self.query = linear(width, heads * d_head)
        self.key_value = linear(width, 2 * (heads // group_size) * d_head)
        self.out = linear(heads * d_head, width)
        self.rotary = rotary
        self.query_norm, self.key_norm = qk_norms
        self.scale = Multiplier("attention", logit_scale, fan_in=d_head)
        self.logits = Logits()
        self.amplified = 1.0

    def amplify(self, factor: float) -> None:
        """Multiply the gradients of queries and keys, and of their unit-scaled weights, not of what comes before."""
        self.amplified = factor
        self.query.get_buffer("amplified").fill_(factor)
        self.key_value.get_buffer("amplified").chunk(2)[0].fill_(factor)

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, width) -> the same shape."""
        q, k, v = (self._split(y) for y in (self.query(x), *self.key_value(x).chunk(2, -1)))
        q, k, v = map(self._fold, (self.scale(self.query_norm(q)), self.key_norm(k), v))
        q, k = self.rotary(q), self.rotary(k)
        if self.amplified != 1:
            q, k = scaled(q, 1, self.amplified), scaled(k, 1, self.amplified)
        if self.logits._forward_hooks:  # fused attention does not return them
            self.logits(q, k, x.shape[:-2])
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=1.0, dropout_p=dropout, enable_gqa=self.grouped
        )
        y = times(self.value_scale, y)
        return self.out(y.transpose(-3, -2).flatten(-2).view(*x.shape[:-1], -1))

    def _split(self, x: Tensor) -> Tensor:
        """(..., T, n * d_head) -> (..., T, n, d_head)."""
        return x.unflatten(-1, (-1, self.d_head))

    def _fold(self, x: Tensor) -> Tensor:
        """(..., T, n, d_head) -> (N, n, T, d_head), all dimensions before T as one, as fused attention wants it."""
        return x.reshape(-1, *x.shape[-3:]).transpose(-3, -2)


class Logits(nn.Module):
    """Attention logits q.k of the past, for whoever hooks this module; nothing else calls it."""

    def forward(self, q: Tensor, k: Tensor, shape: tuple[int, ...]) -> Tensor:
        """q (N, n, T, d), k (N, n / group_size, T, d) -> (*shape, n, T, T), those of the future 0."""
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        return (q @ k.mT).tril().view(*shape, *q.shape[1:-1], -1)


class Rotary(nn.Module):
    """Rotates the pair (x_i, x_(i + d/2)) at position t by the angle t * 10000^(-2i / d) (Su et al. 2021)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, d_head: int, context: int) -> None:
        super().__init__()
        angles = torch.outer(
            torch.arange(context), 10_000.0 ** (torch.arange(0, d_head, 2) / -d_head)
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, d_head) -> the same shape and dtype."""
        cos, sin = (table[: x.shape[-2]] for table in (self.cos, self.sin))
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).type_as(x)


class MLP(nn.Module):
    """`down(hidden_scale h)`, `h = gelu(mult up(x)) / mult`, or `silu(mult a) / mult * b` for `(a, b) = up(x)`."""

    per_member: ClassVar = ("mult",)

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: str,
        mult: float,
        hidden_scale: float,
        linear: Linear,
    ) -> None:
        super().__init__()
        self.gated, self.mult, self.hidden_scale = activation == "swiglu", mult, hidden_scale
        self.up = linear(width, 2 * hidden if self.gated else hidden)
        self.down = linear(hidden, width)
        self.amplified = 1.0

    def amplify(self, factor: float) -> None:
        """Multiply the gradients of what `up` returns, and of its unit-scaled weight, not of what comes before."""
        self.amplified = factor
        self.up.get_buffer("amplified").fill_(factor)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same shape."""
        h = self.up(x)
        if self.gated:
            a, b = h.chunk(2, -1)
            h = F.silu(times(self.mult, a)) * b
        else:
            h = F.gelu(times(self.mult, h))
        h = times(self.hidden_scale / self.mult, h)
        return self.down(h if self.amplified == 1 else scaled(h, 1, self.amplified))


def _heads(width: int, heads: int | None, d_head: int | None) -> tuple[int, int]:
    """Number and size of heads from the one that is given."""
    if (heads is None) == (d_head is None):
        raise ConfigError(
            f"model.d_head={d_head}, model.heads={heads}: give one and null for the other"
        )
    key, given = ("heads", heads) if d_head is None else ("d_head", d_head)
    if (
        not isinstance(width, int)
        or not isinstance(given, int)
        or given < 1
        or width < 1
        or width % given
    ):
        raise ConfigError(
            f"model.{key}={given}: must be a whole number that divides the width {width}"
        )
    return (given, width // given) if d_head is None else (width // given, given)
