"""Layers that serve one model or a stack of them; linear ones hold a multiplier for each of their tensors."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LinearScale(NamedTuple):
    """Multipliers and gradient factors of a linear layer."""

    weight_mult: float = 1.0
    bias_mult: float = 1.0
    weight_grad: float = 1.0
    bias_grad: float = 1.0


UNSCALED = LinearScale()


class ScaledLinear(nn.Linear):
    """`y = x (weight_mult * W)^T + bias_mult * b`; the gradients of W and b are multiplied by `*_grad`.

    A plain `nn.Linear` as long as all four are 1. Otherwise the factors never touch the whole weight: they go into the
    scalar of the matrix products (BLAS' alpha), forward and backward, which gives the same y and the same updates.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.scale = UNSCALED

    def set_scale(self, leaf: str, mult: float, grad: float = 1.0) -> None:
        """Set multiplier and gradient factor of `leaf`, "weight" or "bias"."""
        self.scale = self.scale._replace(**{f"{leaf}_mult": mult, f"{leaf}_grad": grad})

    def draw(self, std: float) -> None:
        """`W ~ N(0, std^2)`, b = 0."""
        nn.init.normal_(self.weight, std=std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features); a stack (`stacked_linear`) has a leading member axis."""
        w: Tensor = self.weight
        b: Tensor | None = self.bias
        if w.dim() == 3:
            return stacked_linear(x, w, b)
        scale = self.scale
        if scale == UNSCALED:
            return F.linear(x, w, b)
        # is there any at all, as torch.nn.RNN asks: naming the device first would cost each call 3 us
        if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, w, b = x.to(dtype), w.to(dtype), None if b is None else b.to(dtype)
        # A readout's gradient is small, and autograd's own product has no Python in its backward pass; of a wide layer
        # it would multiply the whole gradient of the weight.
        plain = scale.weight_grad == scale.bias_grad == 1 and self.out_features < self.in_features
        product = _product if plain else _ScaledProduct.apply
        if x.dim() == 2:  # spares two views and their nodes in the graph, 20 us
            return product(x, w, b, scale)
        y = product(x.reshape(-1, self.in_features), w, b, scale)
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        factors = (
            f", {name}={factor:g}" for name, factor in self.scale._asdict().items() if factor != 1
        )
        return super().extra_repr() + "".join(factors)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: float, backward: float | Tensor) -> Tensor:
        ctx.factor = backward
        return x * forward

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return g * ctx.factor, None, None


def scaled(x: Tensor, forward: float = 1.0, backward: float | Tensor = 1.0) -> Tensor:
    """`forward * x`, with the gradient multiplied by `backward` (and not by `forward`)."""
    return _Scaled.apply(x, forward, backward)


class Embedding(nn.Embedding):
    """`nn.Embedding`, also of a stack: W (S, vocabulary, D) and tokens (G, ...), G a divisor of S, -> (S, ..., D)."""

    def forward(self, tokens: Tensor) -> Tensor:
        w: Tensor = self.weight
        if w.dim() == 2:
            return super().forward(tokens)
        members, vocabulary, _ = w.shape
        first_rows = torch.arange(0, members * vocabulary, vocabulary, device=tokens.device)
        tokens = (
            tokens.repeat_interleave(members // len(tokens), 0) if len(tokens) < members else tokens
        )
        return F.embedding(tokens + _per_member(first_rows, tokens), w.flatten(0, 1))


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, also of a stack: x (S, ..., D) with gain and bias (S, D)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None or self.weight.dim() == 1:
            return super().forward(x)
        y = F.layer_norm(x, self.normalized_shape, eps=self.eps) * _per_member(self.weight, x)
        return y if self.bias is None else y + _per_member(self.bias, x)


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm`, also of a stack: x (S, ..., D) with a gain (S, D)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None or self.weight.dim() == 1:
            return super().forward(x)
        return F.rms_norm(x, self.normalized_shape, eps=self.eps) * _per_member(self.weight, x)


def _per_member(values: Tensor, x: Tensor) -> Tensor:
    """(S,) or (S, D) -> (S, 1, ..., 1) or (S, 1, ..., 1, D), to go with x (S, ..., D); () is one for all."""
    return values.view(*values.shape[:1], *[1] * (x.dim() - values.dim()), *values.shape[1:])


def times(factor: float | Tensor, x: Tensor) -> Tensor:
    """`factor * x`; a factor (S,) is one for each member of a stack x (S, ...)."""
    if isinstance(factor, Tensor):
        return x * _per_member(factor, x)
    return x if factor == 1 else x * factor


def stacked_linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """`y[s] = x[s] w[s]^T + b[s]` for each member s: x (S, ..., in), w (S, out, in), b (S, out) -> y (S, ..., out).

    x may be (G, ..., in) with G a divisor of S: then S / G members in a row share one batch, in one larger product.

    In memory y and its gradient have the features last if examples have more dimensions, such as the tokens of a text,
    since what comes next works on the features of each. Else they have them before the examples: this gives the
    gradient of w without a copy and, under TF32, the fastest products (forward, backward) of a Hopper GPU.
    """
    members, out_features, in_features = w.shape
    rows = x.reshape(len(x), -1, in_features)
    if x.dim() > 3 and len(x) == members:
        y = torch.bmm(rows, w.mT) if b is None else torch.baddbmm(b[:, None], rows, w.mT)
        return y.unflatten(1, x.shape[1:-1])
    weight = w.reshape(len(x), -1, in_features)
    y = (
        torch.bmm(weight, rows.mT)
        if b is None
        else torch.baddbmm(b.reshape(len(x), -1, 1), weight, rows.mT)
    )
    return y.view(members, out_features, -1).mT.unflatten(1, x.shape[1:-1])


def _product(x: Tensor, w: Tensor, b: Tensor | None, scale: LinearScale) -> Tensor:
    """`weight_mult * x W^T + bias_mult * b` for x of (N, in), the factors inside the matrix product."""
    if b is None:
        return torch.addmm(x.new_zeros(()), x, w.t(), beta=0, alpha=scale.weight_mult)
    return torch.addmm(b, x, w.t(), beta=scale.bias_mult, alpha=scale.weight_mult)


class _ScaledProduct(torch.autograd.Function):
    """`_product`, with the gradients of W and b multiplied by `weight_grad` and `bias_grad` in their products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, scale: LinearScale) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.scale = scale
        return _product(x, w, b, scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, w = ctx.saved_tensors
        need_x, need_w, need_b, _ = ctx.needs_input_grad
        weight_mult, bias_mult, weight_grad, bias_grad = ctx.scale
        return (  # with beta=0 the first argument of addmm lends its shape only
            torch.addmm(x, g, w, beta=0, alpha=weight_mult) if need_x else None,
            torch.addmm(w, g.t(), x, beta=0, alpha=weight_mult * weight_grad) if need_w else None,
            g.sum(0).mul_(bias_mult * bias_grad) if need_b else None,
            None,
        )
