"""A decoder-only transformer that knows nothing of parametrizations.

Names of tensors end in their dimensions: B stands for all dimensions before the tokens (examples,
and members of a stack), N for the same as one dimension, T for tokens, H for heads, G for heads of
keys and values, D for the size of a head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.errors import ConfigError
from mupl.models.sizes import size_of
from mupl.nn.dropout import Dropout
from mupl.nn.experts import ExpertLinear
from mupl.nn.layers import Embedding, LayerNorm, RMSNorm, ScaledLinear, times
from mupl.nn.multipliers import Multiplier, Residual, TiedReadout
from mupl.nn.scaled_parameters import effective, scaled
from mupl.nn.unit_scaling import (
    UnitDropout,
    UnitEmbedding,
    UnitLinear,
    UnitResidual,
    attention_scale,
    gelu_scale,
    logit_gradient_scale,
    residual_tau,
    silu_glu_scale,
)

NORMS = ("layernorm", "rmsnorm")
ACTIVATIONS = ("gelu", "swiglu")
POSITIONS = ("rotary", "learned")
NOT_UNIT_SCALED = ("norm_gain", "bias", "tied", "post_norm")  # u-muP has none of them


@dataclass(frozen=True)
class GPTConfig:
    """Every choice that makes a GPT.

    Raises:
        ConfigError: naming the value that is out of range.
    """

    vocabulary: int  # number of different tokens
    context: int  # tokens in the longest sequence
    width: int  # size of the residual stream
    depth: int = 4  # number of blocks
    d_head: int | None = 32  # size of a head, more heads with width; None: see heads
    heads: int | None = None  # number of heads, larger ones with width; None: see d_head
    group_size: int = 1  # heads that share a key and a value (Ainslie et al. 2023)
    norm: str = "layernorm"  # layernorm | rmsnorm
    norm_gain: bool = True  # whether norms have a gain and, with `bias`, a bias
    post_norm: bool = False  # norms after the residual sums instead of before the branches
    activation: str = "gelu"  # gelu | swiglu (Shazeer 2020)
    mlp_ratio: float = 4.0  # hidden units of a feed-forward network over width
    # feed-forward networks of a block, between which a router chooses; or a text: "width / 16"
    experts: int | str | None = None
    experts_per_token: int = 2  # of `experts`, how many a token goes through
    positions: str = "rotary"  # rotary (Su et al. 2021) | learned
    qk_norm: bool = False  # normalise the queries and keys of each head
    tied: bool = False  # read out by the embedding's matrix, logits times width^-1/2
    bias: bool = False  # of linear layers and LayerNorm
    dropout: float = 0.0  # probability; of embeddings, attention weights and branches
    input_mult: float = 1.0  # multiplies the embeddings
    attention_mult: float = 1.0  # multiplies the attention logits
    activation_mult: float = 1.0  # m of gelu(m x) / m, or of silu
    residual_mult: float = 1.0  # multiplies the residual branches
    residual_attention_ratio: float = 1.0  # attention over MLPs on the stream; if unit_scaling
    output_mult: float = 1.0  # multiplies the logits
    init_std: float = 1.0  # std of the weights times sqrt(fan_in)
    embedding_std: float = 1.0  # std of the embeddings
    zero_readout: bool = False  # start the readout at 0
    unit_scaling: bool = False  # unit-scaled operations, for parametrization=umup

    def __post_init__(self) -> None:
        _require_one_of("norm", self.norm, NORMS)
        _require_one_of("activation", self.activation, ACTIVATIONS)
        _require_one_of("positions", self.positions, POSITIONS)
        _require(self.mlp_ratio > 0, f"model.mlp_ratio={self.mlp_ratio}: must be > 0")
        _require(self.depth >= 1, f"depth={self.depth}: must be a whole number >= 1")
        self._check_heads()
        self._check_experts()
        _require(
            0 <= self.dropout < 1,
            f"model.dropout={self.dropout}: must be at least 0 and below 1",
        )
        _require(
            not (self.tied and self.zero_readout),
            "model.zero_readout=true: a tied readout is the embedding and cannot start at 0",
        )
        _require(self.init_std >= 0, f"model.init_std={self.init_std}: must be >= 0")
        _require(self.embedding_std >= 0, f"model.embedding_std={self.embedding_std}: must be >= 0")
        for key in NOT_UNIT_SCALED:
            _require(
                not (self.unit_scaling and getattr(self, key)),
                f"model.{key}=true: unit scaling is without; say model.{key}=false",
            )

    def _check_heads(self) -> None:
        _require(
            (self.heads is None) != (self.d_head is None),
            f"model.d_head={self.d_head}, model.heads={self.heads}: "
            "give one and null for the other",
        )
        for key in ("d_head", "heads"):
            given = getattr(self, key)
            _require(
                given is None or _divides(given, self.width),
                f"model.{key}={given}: must be a whole number that divides the width {self.width}",
            )
        _require(
            _divides(self.group_size, self.num_heads),
            f"model.group_size={self.group_size}: "
            f"must divide the number of heads, {self.num_heads}",
        )
        _require(
            self.positions != "rotary" or self.head_size % 2 == 0,
            f"model.d_head={self.head_size}: must be even for rotary positions",
        )

    def _check_experts(self) -> None:
        if self.experts is None:
            return
        _require(
            not self.unit_scaling,
            f"model.experts={self.experts}: unit scaling is without; say model.experts=null",
        )
        count = self.num_experts
        at_width = f" (at width {self.width})" if isinstance(self.experts, str) else ""
        _require(
            _is_count(count) and count >= 2,
            f"model.experts={self.experts}: must be a whole number >= 2{at_width}, a text that "
            "says one at every width, such as 'width / 16', or null",
        )
        _require(
            _is_count(self.experts_per_token) and self.experts_per_token <= count,
            f"model.experts_per_token={self.experts_per_token}: "
            f"must be a whole number from 1 to {count}, the number of experts{at_width}",
        )

    @property
    def num_experts(self) -> int:
        """Experts of a block at this width; 0 if there is one feed-forward network."""
        if isinstance(self.experts, str):
            known = {"width": self.width, "depth": self.depth}
            return int(size_of("model.experts", self.experts, known))
        return self.experts or 0

    @property
    def num_heads(self) -> int:
        """Heads, from whichever of `heads` and `d_head` is given."""
        if self.d_head is None:
            assert self.heads is not None
            return self.heads
        return self.width // self.d_head

    @property
    def head_size(self) -> int:
        """Size of a head, from whichever of `heads` and `d_head` is given."""
        return self.width // self.num_heads

    @property
    def hidden(self) -> int:
        """Hidden units of a feed-forward network."""
        return round(self.mlp_ratio * self.width)


class PlainOperations:
    """The layers of a standard transformer, and the numbers that its operations need."""

    def __init__(self, config: GPTConfig) -> None:
        self.config = config
        self.logit_scale = config.attention_mult / math.sqrt(config.head_size)
        self.attention_scale = 1.0  # of the means of values
        self.hidden_scale = 1.0  # of what the activation returns
        self.logit_gradient_scale = 1.0  # of the gradients of queries and keys
        self.hidden_gradient_scale = 1.0  # of the gradients of hidden units

    def embedding(self, count: int) -> nn.Embedding:
        return Embedding(count, self.config.width)

    def linear(
        self, in_features: int, out_features: int, gradient_scales: Sequence[float] = (1.0,)
    ) -> ScaledLinear:
        """A layer of a block; its outputs have equal parts, one for each of `gradient_scales`.

        gradient_scales: by how much the gradients that arrive at each part have been multiplied.
        """
        return ScaledLinear(in_features, out_features, self.config.bias)

    def residual(self, index: int) -> Multiplier:
        """How branch `index` is added to the stream; attention has the even, MLPs the odd ones."""
        return Residual(self.config.residual_mult)

    def dropout(self) -> Dropout:
        return Dropout(self.config.dropout)

    def readout(self) -> nn.Module:
        if self.config.tied:
            return TiedReadout(self.config.width)
        return ScaledLinear(self.config.width, self.config.vocabulary, bias=False)


class UnitOperations:
    """The same with unit-scaled operations (`mupl.nn.unit_scaling`).

    Attention logits are divided by d_head, residual sums are normalised, and gradients of queries,
    keys and hidden units are brought to unit scale where they lie, without a trace in what comes
    before them.
    """

    def __init__(self, config: GPTConfig) -> None:
        self.config = config
        attention = (config.context, config.head_size, config.attention_mult)
        activation_scale = gelu_scale if config.activation == "gelu" else silu_glu_scale
        self.logit_scale = config.attention_mult / config.head_size
        self.attention_scale = attention_scale(*attention)
        self.hidden_scale = activation_scale(config.activation_mult)
        self.logit_gradient_scale = logit_gradient_scale(*attention)
        # the gradient of a hidden unit sums over `width` terms, but is scaled for `hidden` of them
        self.hidden_gradient_scale = math.sqrt(config.hidden / config.width)

    def embedding(self, count: int) -> nn.Embedding:
        return UnitEmbedding(count, self.config.width)

    def linear(
        self, in_features: int, out_features: int, gradient_scales: Sequence[float] = (1.0,)
    ) -> ScaledLinear:
        layer = UnitLinear(in_features, out_features, bias=False)
        parts = layer.amplified.chunk(len(gradient_scales))
        for part, gradient_scale in zip(parts, gradient_scales, strict=True):
            part.fill_(gradient_scale)
        return layer

    def residual(self, index: int) -> Multiplier:
        config = self.config
        ratio = config.residual_attention_ratio
        return UnitResidual(residual_tau(index, 2 * config.depth, config.residual_mult, ratio))

    def dropout(self) -> Dropout:
        return UnitDropout(self.config.dropout)

    def readout(self) -> nn.Module:
        return UnitLinear(self.config.width, self.config.vocabulary, bias=False, readout=True)


Operations = PlainOperations | UnitOperations


class GPT(nn.Module):
    """Tokens (..., T) -> logits (..., T, vocabulary); each position sees only the tokens up to it.

    With r the residual multiplier, a block is `x += r attention(norm(x)); x += r mlp(norm(x))`, and
    a last norm comes before the readout. Post-norm is `x = norm(x + r attention(x))`, then
    `x = norm(x + r mlp(x))`. Attention is `softmax(attention_mult / sqrt(d_head) q.k) v` over the
    past.

    Initialised in the standard parametrization: `W ~ N(0, init_std^2 / fan_in)`, embeddings
    N(0, embedding_std^2), gains 1, biases 0.

    Args:
        options: the other fields of `GPTConfig`.

    Raises:
        ConfigError: naming the argument that is out of range.

    Example:
        >>> import torch
        >>> model = GPT(vocabulary=11, context=8, width=16, depth=2, d_head=4)
        >>> model(torch.zeros(3, 5, dtype=torch.int64)).shape
        torch.Size([3, 5, 11])
    """

    # Options in which the members of one stack may differ (see `mupl.stacked.stack`)
    per_member: ClassVar = (
        "input_mult",
        "attention_mult",
        "activation_mult",
        "residual_mult",
        "output_mult",
        "init_std",
        "embedding_std",
        "zero_readout",
    )
    member_axis: ClassVar = True  # the parameters may have a leading member axis

    def __init__(self, vocabulary: int, context: int, width: int, **options: Any) -> None:
        super().__init__()
        config = GPTConfig(vocabulary, context, width, **options)
        operations: Operations = PlainOperations(config)
        if config.unit_scaling:
            operations = UnitOperations(config)
        rotary: nn.Module = nn.Identity()
        if config.positions == "rotary":
            rotary = Rotary(config.head_size, context)
        self.config = config
        self.input_mult = config.input_mult
        self.output_mult = config.output_mult

        self.embedding = operations.embedding(vocabulary)
        self.positions: nn.Module | None = None
        if config.positions == "learned":
            self.positions = operations.embedding(context)
        self.dropout = operations.dropout()
        self.blocks = nn.ModuleList(
            Block(config, operations, rotary, index) for index in range(config.depth)
        )
        self.norm = nn.Identity() if config.post_norm else new_norm(config, width)
        self.readout = operations.readout()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.embedding_std)
            elif isinstance(module, ScaledLinear | ExpertLinear):
                module.init_normal_(self._std_of(module) / math.sqrt(module.in_features))
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()

    def _std_of(self, layer: nn.Module) -> float:
        """The std of a layer's weights times sqrt(fan_in)."""
        if layer is self.readout and self.config.zero_readout:
            return 0.0
        return self.config.init_std

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (..., T), integers, T <= context -> logits (..., T, vocabulary).

        For a stack of S members: tokens (G, ..., T), G a divisor of S -> (S, ..., T, vocabulary).
        """
        length = tokens.shape[-1]
        if length > self.config.context:
            raise ValueError(f"{length} tokens are more than the context of {self.config.context}")
        x = self.embedding(tokens)
        if self.positions is not None:
            places = torch.arange(length, device=tokens.device)
            leading = [1] * (tokens.dim() - 1)
            x = x + self.positions(places.view(*leading, length))
        x = self.dropout(times(self.input_mult, x))
        for block in self.blocks:
            x = block(x)
        x = times(self.output_mult, self.norm(x))
        if isinstance(self.readout, TiedReadout):
            return self.readout(x, effective(self.embedding, "weight"))
        return self.readout(x)

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        count: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        top_k: int | None = None,
    ) -> Tensor:
        """tokens (..., T) followed by `count` more, (..., T + count).

        Each is sampled given at most `context` tokens before it. temperature: divides the logits; 0
        takes the most likely token. top_k: only so many of the most likely tokens are sampled.
        """
        for _ in range(count):
            seen = tokens[..., -self.config.context :]
            logits = self(seen)[..., -1, :]
            if temperature == 0:
                following = logits.argmax(-1, keepdim=True)
            else:
                if top_k is not None and top_k < logits.shape[-1]:
                    least = logits.topk(top_k).values[..., -1:]
                    logits = logits.where(logits >= least, -torch.inf)
                probabilities = (logits / temperature).softmax(-1)
                rows = probabilities.view(-1, probabilities.shape[-1])  # (N, vocabulary)
                following = torch.multinomial(rows, 1, generator=generator)
                following = following.view(*tokens.shape[:-1], 1)
            tokens = torch.cat([tokens, following], -1)
        return tokens


class Block(nn.Module):
    """Attention and a feed-forward network, each added to the residual stream."""

    def __init__(
        self, config: GPTConfig, operations: Operations, rotary: nn.Module, index: int
    ) -> None:
        super().__init__()
        self.attention_norm = new_norm(config, config.width)
        self.attention = Attention(config, operations, rotary)
        self.attention_residual = operations.residual(2 * index)
        self.mlp_norm = new_norm(config, config.width)
        self.mlp = new_feed_forward(config, operations)
        self.mlp_residual = operations.residual(2 * index + 1)
        self.dropout = operations.dropout()
        self.post_norm = config.post_norm
        last = "mlp.down" if config.experts is None else "mlp.networks.down"
        self.last_of_branch = {"attention_residual": "attention.out", "mlp_residual": last}

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, width) -> the same shape."""
        if self.post_norm:
            x = self.attention_norm(self.attention_residual(x, self._attend))
            return self.mlp_norm(self.mlp_residual(x, self._feed_forward))
        x = self.attention_residual(x, lambda h: self._attend(self.attention_norm(h)))
        return self.mlp_residual(x, lambda h: self._feed_forward(self.mlp_norm(h)))

    def _attend(self, x: Tensor) -> Tensor:
        return self.dropout(self.attention(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.mlp(x))


class Attention(nn.Module):
    """Causal self-attention; keys and values are one matrix, keys first.

    Scales come from `operations`.
    """

    fused: ClassVar = {"query.weight": 1, "key_value.weight": 2}  # matrices in a tensor

    def __init__(self, config: GPTConfig, operations: Operations, rotary: nn.Module) -> None:
        super().__init__()
        gradient_scale = operations.logit_gradient_scale
        d_head = config.head_size
        queries = config.num_heads * d_head
        keys = queries // config.group_size
        self.d_head = d_head
        self.grouped = config.group_size > 1
        self.dropout = operations.dropout()
        self.value_scale = operations.attention_scale
        self.gradient_scale = gradient_scale
        self.query = operations.linear(config.width, queries, [gradient_scale])
        self.key_value = operations.linear(config.width, 2 * keys, [gradient_scale, 1.0])
        self.out = operations.linear(queries, config.width)
        self.rotary = rotary
        self.query_norm = new_norm(config, d_head) if config.qk_norm else nn.Identity()
        self.key_norm = new_norm(config, d_head) if config.qk_norm else nn.Identity()
        self.scale = Multiplier("attention", operations.logit_scale, fan_in=d_head)
        self.logits = Logits()

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, width) -> the same shape."""
        q_BTHD = self._split_heads(self.query(x))
        k_BT, v_BT = self.key_value(x).chunk(2, -1)
        k_BTGD = self._split_heads(k_BT)
        v_BTGD = self._split_heads(v_BT)
        q_BTHD = self.query_norm(q_BTHD)
        k_BTGD = self.key_norm(k_BTGD)
        logit_scale = 1.0
        if self._scales_in_kernel():
            logit_scale = self.scale.value
        else:
            q_BTHD = self.scale(q_BTHD)

        q_NHTD = self.rotary(heads_first(q_BTHD))
        k_NGTD = self.rotary(heads_first(k_BTGD))
        v_NGTD = heads_first(v_BTGD)
        q_NHTD = scale_gradient(q_NHTD, self.gradient_scale)
        k_NGTD = scale_gradient(k_NGTD, self.gradient_scale)

        if self.logits._forward_hooks:  # fused attention does not return them
            self.logits(q_NHTD, k_NGTD, x.shape[:-2])
        y_NHTD = self._attend(q_NHTD, k_NGTD, v_NGTD, logit_scale)
        y_NT = y_NHTD.transpose(-3, -2).flatten(-2)
        y_BT = y_NT.view(*x.shape[:-1], -1)
        return self.out(y_BT)

    def _scales_in_kernel(self) -> bool:
        """Whether fused attention multiplies the logits, which saves a pass over the queries.

        It takes one number, and shows neither multiplied queries nor logits to hooks.
        """
        watched = self.scale._forward_hooks or self.logits._forward_hooks
        dropped = self.training and self.dropout.p > 0
        return not (watched or dropped or isinstance(self.scale.value, Tensor))

    def _attend(self, q_NHTD: Tensor, k_NGTD: Tensor, v_NGTD: Tensor, logit_scale: float) -> Tensor:
        """Average the values of past tokens by softmax(logit_scale q.k): (N, H, T, D).

        The result is multiplied by `value_scale`.
        """
        if self.training and self.dropout.p > 0:
            y_NHTD = self._attend_with_dropout(q_NHTD, k_NGTD, v_NGTD)
        else:
            y_NHTD = F.scaled_dot_product_attention(
                q_NHTD, k_NGTD, v_NGTD, is_causal=True, scale=logit_scale, enable_gqa=self.grouped
            )
        return times(self.value_scale, y_NHTD)

    def _attend_with_dropout(self, q_NHTD: Tensor, k_NGTD: Tensor, v_NGTD: Tensor) -> Tensor:
        """Average with weights dropped by our masks: fused attention draws its own."""
        logits_NHTT = q_NHTD @ repeat_groups(k_NGTD, q_NHTD).mT
        future_TT = torch.ones_like(logits_NHTT[0, 0], dtype=torch.bool).triu(1)
        weights_NHTT = logits_NHTT.masked_fill(future_TT, -torch.inf).softmax(-1)
        return self.dropout(weights_NHTT) @ repeat_groups(v_NGTD, q_NHTD)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(..., n * D) -> (..., n, D)."""
        return x.unflatten(-1, (-1, self.d_head))


class Logits(nn.Module):
    """Attention logits q.k of the past, for whoever hooks this module; nothing else calls it."""

    def forward(self, q_NHTD: Tensor, k_NGTD: Tensor, leading: tuple[int, ...]) -> Tensor:
        """Logits (*leading, H, T, T), of the future 0; N is the product of `leading`."""
        logits_NHTT = (q_NHTD @ repeat_groups(k_NGTD, q_NHTD).mT).tril()
        return logits_NHTT.view(*leading, *logits_NHTT.shape[1:])


class Rotary(nn.Module):
    """Rotates the pair (x_i, x_(i + d/2)) at position t by t * 10000^(-2i / d) (Su et al. 2021)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, d_head: int, context: int) -> None:
        super().__init__()
        frequencies = 10_000.0 ** (torch.arange(0, d_head, 2) / -d_head)
        angles = torch.outer(torch.arange(context), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, d_head) -> the same shape and dtype."""
        length = x.shape[-2]
        cos = self.cos[:length]
        sin = self.sin[:length]
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).type_as(x)


class FeedForward(nn.Module):
    """`down(hidden_scale h)`, h being `gelu(mult up(x)) / mult`.

    For "swiglu", h is `silu(mult a) / mult * b` for `(a, b) = up(x)`. With `num_experts` it is as
    many networks, with inputs and outputs as `mupl.nn.experts.ExpertLinear` has them.
    """

    per_member: ClassVar = ("mult",)

    def __init__(self, config: GPTConfig, operations: Operations, num_experts: int = 0) -> None:
        super().__init__()
        gradient_scale = operations.hidden_gradient_scale
        self.gated = config.activation == "swiglu"
        self.mult = config.activation_mult
        self.hidden_scale = operations.hidden_scale
        self.gradient_scale = gradient_scale
        hidden = 2 * config.hidden if self.gated else config.hidden
        self.fused = {"up.weight": 2 if self.gated else 1}  # matrices in a tensor
        self.up: ScaledLinear | ExpertLinear
        self.down: ScaledLinear | ExpertLinear
        if num_experts:
            self.up = ExpertLinear(num_experts, config.width, hidden, config.bias)
            self.down = ExpertLinear(num_experts, config.hidden, config.width, config.bias)
        else:
            self.up = operations.linear(config.width, hidden, [gradient_scale])
            self.down = operations.linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same shape, or of experts their outputs for it."""
        h = self.up(x)
        if self.gated:
            a, b = h.chunk(2, -1)
            h = F.silu(times(self.mult, a)) * b
        else:
            h = F.gelu(times(self.mult, h))
        h = times(self.hidden_scale / self.mult, h)
        return self.down(scale_gradient(h, self.gradient_scale))


class Experts(nn.Module):
    """A mixture of feed-forward networks: each token goes through a few of them.

    With p = softmax(router(x)) over the K largest of E, y = sum_k p_k expert_k(x) (Shazeer et al.
    2017; Jiang et al. 2024). All experts are computed for all tokens, which costs E / K times what
    routed kernels would, is the same in stacks, and drops no token. No loss balances their load.
    """

    def __init__(self, config: GPTConfig, operations: Operations) -> None:
        super().__init__()
        self.chosen = config.experts_per_token
        self.router = operations.linear(config.width, config.num_experts)
        self.networks = FeedForward(config, operations, config.num_experts)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same shape."""
        logits_BE = self.router(x)
        least = logits_BE.topk(self.chosen, -1).values[..., -1:]
        shares_BE = logits_BE.masked_fill(logits_BE < least, -torch.inf).softmax(-1)
        experts_dim = self.networks.up.weight.dim() - 3  # after the members of a stack
        outputs = self.networks(x.unsqueeze(experts_dim))
        shares = shares_BE.movedim(-1, experts_dim).unsqueeze(-1)
        return (shares * outputs).sum(experts_dim)


def new_feed_forward(config: GPTConfig, operations: Operations) -> nn.Module:
    """The feed-forward network of a block, or several with a router."""
    if config.experts is None:
        return FeedForward(config, operations)
    return Experts(config, operations)


def new_norm(config: GPTConfig, size: int) -> nn.Module:
    """The norm of a config over a last dimension of `size`."""
    if config.norm == "rmsnorm":
        return RMSNorm(size, elementwise_affine=config.norm_gain)
    return LayerNorm(size, elementwise_affine=config.norm_gain, bias=config.bias)


def heads_first(x_BTHD: Tensor) -> Tensor:
    """(..., T, H, D) -> (N, H, T, D): fused attention wants one dimension before the heads."""
    x_NTHD = x_BTHD.reshape(-1, *x_BTHD.shape[-3:])
    return x_NTHD.transpose(-3, -2)


def repeat_groups(x_NGTD: Tensor, q_NHTD: Tensor) -> Tensor:
    """(N, G, T, D) -> (N, H, T, D): the keys or values of every query's head."""
    return x_NGTD.repeat_interleave(q_NHTD.shape[1] // x_NGTD.shape[1], 1)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """x, with its gradient multiplied by `factor`."""
    return x if factor == 1 else scaled(x, 1, factor)


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _divides(divisor: Any, number: Any) -> bool:
    """Whether both are whole numbers >= 1 and the first divides the second."""
    return _is_count(divisor) and _is_count(number) and number % divisor == 0


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_one_of(key: str, value: str, choices: Sequence[str]) -> None:
    _require(value in choices, f"model.{key}={value}: must be one of {', '.join(choices)}")
