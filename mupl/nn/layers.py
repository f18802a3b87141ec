"""Layers that serve one model or a stack of them; linear ones hold a multiplier for each tensor."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mupl.nn.scaled_parameters import hold_scale


class LinearScale(NamedTuple):
    """Multipliers and gradient factors of a linear layer."""

    weight_mult: float = 1.0
    bias_mult: float = 1.0
    weight_grad: float = 1.0
    bias_grad: float = 1.0


UNSCALED = LinearScale()


class ScaledLinear(nn.Linear):
    """Linear layer `y = x (weight_mult * W)^T + bias_mult * b`.

    The gradients of W and b are multiplied by `weight_grad` and `bias_grad`. As long as all four
    numbers are 1 it is a plain `nn.Linear`. Otherwise they never touch the whole weight: they go
    into the scalar of the matrix products (BLAS' alpha), forward and backward. A `ScaledParameter`
    beside each tensor shows and saves them.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.scale = UNSCALED

    def set_scale(self, leaf: str, mult: float, grad: float = 1.0) -> None:
        """Set multiplier and gradient factor of `leaf`, "weight" or "bias"."""
        numbers = {f"{leaf}_mult": mult, f"{leaf}_grad": grad}
        self.scale = self.scale._replace(**numbers)
        hold_scale(self, leaf, mult, grad)

    def init_normal_(self, std: float) -> None:
        """Fill the weight from N(0, std^2) and the bias with 0."""
        nn.init.normal_(self.weight, std=std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features); in a stack see `stacked_linear`."""
        w: Tensor = self.weight
        b: Tensor | None = self.bias
        if w.dim() == 3:
            return stacked_linear(x, w, b)
        if self.scale == UNSCALED:
            return F.linear(x, w, b)
        device = x.device.type
        if torch.is_autocast_enabled(device):  # does not reach into an autograd function
            dtype = torch.get_autocast_dtype(device)
            x = x.to(dtype)
            w = w.to(dtype)
            b = None if b is None else b.to(dtype)
        rows = x.reshape(-1, self.in_features)
        y = _ScaledProduct.apply(rows, w, b, self.scale)
        return y.view(*x.shape[:-1], self.out_features)


class _ScaledProduct(torch.autograd.Function):
    """`weight_mult * x W^T + bias_mult * b` for x (N, in), all factors inside the products.

    The gradients of W and b are multiplied by `weight_grad` and `bias_grad` too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        scale: LinearScale,
    ) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.scale = scale
        if b is None:
            return _product(x, w.t(), scale.weight_mult)
        return torch.addmm(b, x, w.t(), beta=scale.bias_mult, alpha=scale.weight_mult)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        scale: LinearScale = ctx.scale
        x_needed, w_needed, b_needed, _ = ctx.needs_input_grad
        grad_x = grad_w = grad_b = None
        if x_needed:
            grad_x = _product(g, w, scale.weight_mult)
        if w_needed:
            grad_w = _product(g.t(), x, scale.weight_mult * scale.weight_grad)
        if b_needed:
            grad_b = g.sum(0).mul_(scale.bias_mult * scale.bias_grad)
        return grad_x, grad_w, grad_b, None


def _product(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Return `factor * a b` by one call of BLAS; with beta=0 addmm's first argument is not read."""
    return torch.addmm(a.new_empty(()), a, b, beta=0, alpha=factor)


class Embedding(nn.Embedding):
    """`nn.Embedding`, also of a stack.

    There W is (S, vocabulary, D) and tokens are (G, ...) with G a divisor of S -> (S, ..., D).
    """

    def forward(self, tokens: Tensor) -> Tensor:
        w: Tensor = self.weight
        if w.dim() == 2:
            return super().forward(tokens)
        members, vocabulary, _ = w.shape
        if len(tokens) < members:
            tokens = tokens.repeat_interleave(members // len(tokens), 0)
        rows = w.flatten(0, 1)
        first_rows = torch.arange(0, len(rows), vocabulary, device=tokens.device)
        return F.embedding(tokens + _per_member(first_rows, tokens), rows)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, also of a stack: x (S, ..., D) with gain and bias (S, D)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None or self.weight.dim() == 1:
            return super().forward(x)
        y = F.layer_norm(x, self.normalized_shape, eps=self.eps)
        y = y * _per_member(self.weight, x)
        if self.bias is None:
            return y
        return y + _per_member(self.bias, x)


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm`, also of a stack: x (S, ..., D) with a gain (S, D)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None or self.weight.dim() == 1:
            return super().forward(x)
        y = F.rms_norm(x, self.normalized_shape, eps=self.eps)
        return y * _per_member(self.weight, x)


def _per_member(values: Tensor, x: Tensor) -> Tensor:
    """Shape values of a stack's members so that they go with x (S, ..., D).

    (S,) -> (S, 1, ..., 1), (S, D) -> (S, 1, ..., 1, D); () stays as it is, one for all.
    """
    ones = [1] * (x.dim() - values.dim())
    return values.view(*values.shape[:1], *ones, *values.shape[1:])


def times(factor: float | Tensor, x: Tensor) -> Tensor:
    """Return `factor * x`; a factor (S,) has one value for each member of a stack x (S, ...)."""
    if isinstance(factor, Tensor):
        return x * _per_member(factor, x)
    return x if factor == 1 else x * factor


def stacked_linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Return `y[s] = x[s] w[s]^T + b[s]` for each member s of a stack.

    x (S, ..., in), w (S, out, in), b (S, out) -> y (S, ..., out). x may also be (G, ..., in) with G
    a divisor of S: then S / G members in a row share one batch, in one larger product.

    There are two paths because the order of y in memory matters. Examples of more dimensions, such
    as the tokens of a text, have the features last, since what comes next works on the features of
    each token. Else y has the features before the examples: this gives the gradient of w without a
    copy and, under TF32, the fastest products (forward and backward) of a Hopper GPU.
    """
    members, out_features, in_features = w.shape
    rows = x.reshape(len(x), -1, in_features)
    if x.dim() > 3 and len(x) == members:
        bias = None if b is None else b[:, None]
        y = _bmm(rows, w.mT, bias)
    else:
        weight = w.reshape(len(x), -1, in_features)  # one matrix of members that share a batch
        bias = None if b is None else b.reshape(len(x), -1, 1)
        columns = _bmm(weight, rows.mT, bias)
        y = columns.view(members, out_features, -1).mT
    return y.unflatten(1, x.shape[1:-1])


def _bmm(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Return `a b`, plus the bias if there is one, by one call of BLAS."""
    if bias is None:
        return torch.bmm(a, b)
    return torch.baddbmm(bias, a, b)
