"""Other ways of computing a step of a stack of GPTs, for `stacked_gpt_variants.py`.

A `Way` says what differs from the step as it is; `change` makes it so in one stack, by other
classes for its modules. Nothing of mupl is changed.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

import mupl.stacked.optimizer as optimizer
from mupl.models import gpt
from mupl.nn import layers
from mupl.stacked.compiled import compiled
from mupl.stacked.stack import Stack

SMS = 132  # of a Hopper GPU


@dataclass(frozen=True)
class Way:
    """How a step is computed; without arguments, as mupl does it.

    Joined by `&`, where what differs from mupl of the second counts.
    """

    merged: bool = False  # queries, keys and values by one product
    rotary: str = "cat"  # halves by cat | flip | both: flip of queries and keys at once
    attention: str = "sdpa"  # sdpa | flex | triton, which rotates itself
    flex_options: tuple[tuple[str, Any], ...] = ()
    sdpa: SDPBackend | None = None  # whose kernel, or torch's choice
    # plain | folded: gains in the next matrices, normalised x kept in bfloat16
    norms: str = "plain"
    stream: str = "float32"  # dtype of the residual stream
    # plain | rows: written as the weight lies | split: that in parts | float32: by the product
    weight_gradient: str = "plain"
    embedding: str = "plain"  # plain | product: its gradient by a product with ones and zeros
    weights: str = "cast"  # cast in each step | copies: kept in bfloat16, gradients in bfloat16
    update: str = "each"  # each tensor by itself | one compiled function
    loss_parts: int = 1  # members' logits and losses in so many parts, one after the other
    # blocks | edges: and what is before and after | whole | joint: and gradients, updates | nothing
    compile: str = "blocks"
    gelu: str = "plain"  # plain | exponential: erf and its gradient by one exponential
    cuda_only: str = ""  # why it does not run on a CPU
    inductor: tuple[tuple[str, Any], ...] = ()  # options
    library: str = ""  # cublaslt, or torch's choice

    def __and__(self, other: "Way") -> "Way":
        changed = {}
        for key in fields(self):
            value = getattr(other, key.name)
            if value != key.default:
                changed[key.name] = value
        changed["inductor"] = self.inductor + other.inductor
        return replace(self, **changed)


def _inductor(**options: Any) -> Way:
    return Way(inductor=tuple(options.items()), cuda_only="tiny runs are not compiled by Inductor")


def _sdpa(backend: SDPBackend) -> Way:
    return Way(sdpa=backend, cuda_only="kernels of a GPU")


def _flex(block: int = 128, **options: int) -> Way:
    options = {"BLOCK_SIZE": block, **options}
    return Way(
        attention="flex",
        flex_options=tuple(options.items()),
        cuda_only="flex_attention has no gradients on a CPU",
    )


CANDIDATES = {
    "same": Way(),
    "eager": Way(compile="nothing"),
    "merged": Way(merged=True),
    "flip": Way(rotary="flip"),
    "both": Way(merged=True, rotary="both"),
    "triton": Way(merged=True, attention="triton"),
    "flash": _sdpa(SDPBackend.FLASH_ATTENTION),
    "cudnn": _sdpa(SDPBackend.CUDNN_ATTENTION),
    "efficient": _sdpa(SDPBackend.EFFICIENT_ATTENTION),
    "flex": _flex(),
    "flex64": _flex(64, BLOCK_M=64, BLOCK_N=64),
    "folded": Way(norms="folded"),
    "stream": Way(stream="bfloat16"),
    "gelu": Way(gelu="exponential"),
    "rows": Way(weight_gradient="rows"),
    "split": Way(weight_gradient="split"),
    "fp32_gradient": Way(
        weight_gradient="float32", cuda_only="products of bfloat16 into float32 are of cuBLAS"
    ),
    "onehot": Way(embedding="product"),
    "copies": Way(weights="copies"),
    "one_update": Way(update="one"),
    "loss_parts": Way(loss_parts=4),
    "edges": Way(compile="edges"),
    "whole": Way(compile="whole"),
    "joint": Way(compile="joint"),
    "cublaslt": Way(library="cublaslt", cuda_only="a library of a GPU"),
    "descent": _inductor(coordinate_descent_tuning=True),
    "pointwise": _inductor(max_autotune_pointwise=True),
    "multi": _inductor(**{"triton.multi_kernel": 1}),
    "unpadded": _inductor(shape_padding=False),
    "aggressive": _inductor(aggressive_fusion=True),
    "autotune": _inductor(max_autotune_gemm=True, max_autotune_gemm_backends="ATEN,TRITON"),
    "tritonmm": _inductor(max_autotune_gemm=True, max_autotune_gemm_backends="TRITON"),
    "unfused": _inductor(epilogue_fusion=False),
}


def way_of(name: str) -> Way:
    """The candidate of a name, or several joined, such as "merged+whole"."""
    way = Way()
    for part in name.split("+"):
        way = way & CANDIDATES[part]
    return way


# Products


def _split_parts(members: int, rows: int, columns: int) -> int:
    """In how many parts to sum so that the products fill the GPU, whose tiles are of 128 x 128."""
    tiles = members * max(1, rows // 128) * max(1, columns // 128)
    parts = 1
    while parts < 8 and parts * tiles < 4 * SMS:
        parts *= 2
    return parts


class _Product(torch.autograd.Function):
    """x W^T for x (S, N, in), W (S, out, in), both in one dtype; the gradient of W in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, kind: str) -> Tensor:
        low = _dtype_of_products(x)
        ctx.save_for_backward(x.to(low), w.to(low))
        ctx.kind = kind
        ctx.dtypes = x.dtype, w.dtype
        return torch.bmm(x.to(low), w.to(low).mT)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        x, w = ctx.saved_tensors
        x_dtype, w_dtype = ctx.dtypes
        grad_x = torch.bmm(g, w).to(x_dtype)
        if ctx.kind == "float32":
            return grad_x, torch.bmm(g.mT, x, out_dtype=torch.float32), None
        members, rows, _ = x.shape
        parts = _split_parts(*w.shape) if ctx.kind == "split" else 1
        split = (members * parts, rows // parts, -1)
        sums = torch.bmm(g.reshape(split).mT, x.reshape(split))
        grad_w = sums.view(members, parts, *w.shape[1:]).sum(1, dtype=w_dtype)
        return grad_x, grad_w, None


def _dtype_of_products(x: Tensor) -> torch.dtype:
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in a dtype, as the output of a function.

    torch 2.11 compiles one to a function without a gradient if its output comes from a `to` that
    has nothing to do.
    """
    return x if x.dtype is dtype else x.to(dtype)


def _product(x: Tensor, w: Tensor, way: Way) -> Tensor:
    if way.weight_gradient == "plain":
        return layers.stacked_linear(x, w)
    y = _Product.apply(x.flatten(1, -2), w, way.weight_gradient)
    return y.unflatten(1, x.shape[1:-1])


class Linear(layers.ScaledLinear):
    way: Way
    gains: tuple[nn.Module, ...]  # the norm before it, if its gain is folded into the weight

    def effective_weight(self) -> Tensor:
        w: Tensor = self.weight
        for norm in self.gains:
            w = w * norm.weight[:, None]
        return w

    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.effective_weight(), self.way)


# Norms and embedding


class _Normalised(torch.autograd.Function):
    """(x - mean) / std in the dtype of the products, of which alone its gradient is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        in_full = x.float() if x.dtype is torch.bfloat16 else x
        centred = in_full - in_full.mean(-1, keepdim=True)
        inverse_std = (centred.square().mean(-1, keepdim=True) + eps).rsqrt()
        y = _cast(centred * inverse_std, dtype)
        ctx.save_for_backward(y, inverse_std)
        ctx.dtype = x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        y, inverse_std = ctx.saved_tensors
        g = g.to(inverse_std.dtype)
        y = y.to(inverse_std.dtype)
        along = y * (g * y).mean(-1, keepdim=True)
        grad = inverse_std * (g - g.mean(-1, keepdim=True) - along)
        return grad.to(ctx.dtype), None, None


class FoldedNorm(layers.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return _Normalised.apply(x, self.eps, _dtype_of_products(x))


class _Rows(torch.autograd.Function):
    """Rows of an embedding W (S, V, D), whose gradient is a product with ones and zeros."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, w: Tensor) -> Tensor:
        """tokens (G, ..., T), where G is 1 or S -> (S, ..., T, D)."""
        ctx.save_for_backward(tokens)
        ctx.low = _dtype_of_products(w)
        ctx.vocabulary = w.shape[1]
        first = torch.arange(0, w.shape[0] * w.shape[1], w.shape[1], device=w.device)
        rows = tokens + first.view(-1, *[1] * (tokens.dim() - 1))
        return F.embedding(rows, w.flatten(0, 1))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        entries = torch.arange(ctx.vocabulary, device=g.device)
        chosen = (tokens.flatten(1)[:, None] == entries[:, None]).to(ctx.low)  # (G, V, N)
        rows = g.flatten(1, -2)
        product = torch.bmm(chosen.expand(len(rows), -1, -1), rows.to(ctx.low))
        return None, product.to(g.dtype)


class Embedding(layers.Embedding):
    way: Way

    def forward(self, tokens: Tensor) -> Tensor:
        if self.way.embedding == "product":
            x = _Rows.apply(tokens, self.weight)
        else:
            x = super().forward(tokens)
        return x.bfloat16() if self.way.stream == "bfloat16" else x


# GELU

# erf(z) = 1 - (a_1 t + ... + a_5 t^5) exp(-z^2) with t = 1 / (1 + p z) for z >= 0, to 1.5e-7
# (Abramowitz and Stegun 1964, 7.1.26)
ERF_P = 0.3275911
ERF_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _normal(x: Tensor) -> tuple[Tensor, Tensor]:
    """The cumulative distribution of N(0, 1) at x, and the density, of one exponential."""
    exponential = torch.exp(-0.5 * x * x)
    t = 1 / (1 + ERF_P * 2**-0.5 * x.abs())
    polynomial = ERF_A[-1] * t
    for a in reversed(ERF_A[:-1]):
        polynomial = (polynomial + a) * t
    tail = 0.5 * polynomial * exponential
    return torch.where(x < 0, tail, 1 - tail), exponential * (2 * torch.pi) ** -0.5


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        x_full = x.float() if x.dtype is torch.bfloat16 else x
        return _cast(x_full * _normal(x_full)[0], x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        x_full = x.float() if x.dtype is torch.bfloat16 else x
        cumulative, density = _normal(x_full)
        return (g * (cumulative + x_full * density)).to(x.dtype)


class FeedForward(gpt.FeedForward):
    def forward(self, x: Tensor) -> Tensor:
        return self.down(_Gelu.apply(self.up(x)))


# Attention


class Attention(gpt.Attention):
    way: Way
    mask: BlockMask  # of flex_attention; a captured graph reads its tensors, which live as long

    def forward(self, x: Tensor) -> Tensor:
        if self.way.attention == "triton":
            return self.out(self._by_triton(x))
        q_NTHD, k_NTHD, v_NTHD = self._rotated(x)
        q_NHTD, k_NHTD, v_NHTD = (y.transpose(1, 2) for y in (q_NTHD, k_NTHD, v_NTHD))
        if self.way.attention == "flex":
            options = dict(self.way.flex_options)
            del options["BLOCK_SIZE"]
            y_NHTD = flex_attention(
                q_NHTD,
                k_NHTD,
                v_NHTD,
                block_mask=self.mask,
                scale=self.scale.value,
                kernel_options=options or None,
            )
        else:
            y_NHTD = self._attend(q_NHTD, k_NHTD, v_NHTD, self.scale.value)
        y_BT = y_NHTD.transpose(1, 2).reshape(*x.shape[:-1], -1)
        return self.out(y_BT)

    def _together(self, x: Tensor) -> Tensor:
        """Queries, keys and values by one product, (N, T, 3, H, D)."""
        w = torch.cat([self.query.effective_weight(), self.key_value.effective_weight()], 1)
        y = _product(x, w, self.way)
        return y.view(-1, x.shape[-2], 3, y.shape[-1] // 3 // self.d_head, self.d_head)

    def _by_triton(self, x: Tensor) -> Tensor:
        from rotary_attention import rotary_attention  # reads TRITON_INTERPRET

        y = rotary_attention(self._together(x), self.rotary.cos, self.rotary.sin, self.scale.value)
        return y.view(*x.shape[:-1], -1)

    def _rotated(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (N, T, H, D) each."""
        if self.way.merged:
            parts = self._together(x)
            if self.way.rotary == "both":
                q_and_k = self._flipped(parts[:, :, :2])
                return q_and_k[:, :, 0], q_and_k[:, :, 1], parts[:, :, 2]
            q, k, v = parts.unbind(2)
        else:
            q = self.query(x)
            k, v = self.key_value(x).chunk(2, -1)
            q, k, v = (y.view(-1, x.shape[-2], self.query_heads, self.d_head) for y in (q, k, v))
        if self.way.rotary == "flip":
            return self._flipped(q), self._flipped(k), v
        return self._by_cat(q), self._by_cat(k), v

    @property
    def query_heads(self) -> int:
        return self.query.out_features // self.d_head

    def _by_cat(self, x_NTHD: Tensor) -> Tensor:
        return self.rotary(x_NTHD.transpose(1, 2)).transpose(1, 2)

    def _flipped(self, x: Tensor) -> Tensor:
        """Rotate x (N, T, ..., D): the halves are swapped by a flip, whose gradient is one too."""
        cos = self.rotary.cos
        sin = self.rotary.sin
        shape = (x.shape[1], *[1] * (x.dim() - 3), x.shape[-1])
        swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
        cosines = torch.cat([cos, cos], -1).view(shape)
        sines = torch.cat([-sin, sin], -1).view(shape)
        return (x * cosines + swapped * sines).type_as(x)


def _causal(length: int, device: torch.device, block: int) -> BlockMask:
    def past(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q >= k

    sizes = (None, None, length, length)
    return create_block_mask(past, *sizes, device=str(device), BLOCK_SIZE=block)


# The step


class CopiesStack(Stack):
    """Products read bfloat16 copies of the weights; their gradients stay in bfloat16."""

    trained: dict[str, Tensor]  # what the model computes with
    copies: tuple[list[Tensor], list[Tensor]]  # copies, and the weights that they are of

    def _step(self) -> dict[str, Tensor]:
        x, target = self._batches()
        losses = self._loss_function(self.forward(x), target)
        gradients = torch.autograd.grad(losses.sum(), list(self.trained.values()))
        by_name = dict(zip(self.trained, gradients, strict=True))
        with torch.no_grad():
            self.optimizer.step(by_name, self._k_on_device, self.k)
            torch._foreach_copy_(*self.copies)
            self.losses.index_copy_(0, self._k_on_device, losses.detach()[None])
            self._k_on_device.add_(1)
        return by_name


def _use_copies(stack: Stack) -> None:
    low = stack._autocast or stack._dtype
    stack.__class__ = CopiesStack
    stack.trained = {}
    stack.copies = ([], [])
    for name, weight in stack.weights.items():
        path, _, leaf = name.rpartition(".")
        module = stack.model.get_submodule(path)
        stack.trained[name] = weight
        if isinstance(module, layers.ScaledLinear):
            copy = nn.Parameter(weight.detach().to(low))
            setattr(module, leaf, copy)
            stack.trained[name] = copy
            stack.copies[0].append(copy.detach())
            stack.copies[1].append(weight.detach())
    for name, slot in stack.optimizer._slots.items():
        rule = replace(slot.rule, update=_of_low_gradient(slot.rule.update))
        stack.optimizer._slots[name] = replace(slot, rule=rule)


@cache
def _of_low_gradient(update: Callable[..., None]) -> Callable[..., None]:
    def cast_first(w: Tensor, g: Tensor, *others: Any, **options: Any) -> None:
        update(w, g.to(w.dtype), *others, **options)

    return cast_first


def _one_update(stack: Stack) -> None:
    """All updates in one compiled function, with kernels for several tensors."""
    step = compiled(stack.optimizer.step, dynamic=False)
    options = {"combo_kernels": True, "benchmark_combo_kernel": False}

    def as_one(gradients: Any, k: Tensor, k_on_host: int) -> None:
        with torch._inductor.config.patch(options):
            step(gradients, k, 0)  # its rules need not know the number

    stack.optimizer.step = as_one


def _losses_in_parts(stack: Stack, parts: int) -> None:
    """Read out and compute the losses of a part of the members at a time."""
    readout = stack.model.readout
    weight = readout.effective_weight

    def losses(x: Tensor, target: Tensor) -> Tensor:
        found = []
        targets = target.expand(len(x), *target.shape[1:]) if len(target) == 1 else target
        pieces = zip(x.chunk(parts), weight().chunk(parts), targets.chunk(parts), strict=True)
        lower = stack._autocast is not None
        with torch.autocast(stack.device.type, stack._autocast, enabled=lower):
            outputs = [(layers.stacked_linear(x, w), target) for x, w, target in pieces]
        for output, target in outputs:
            found.append(Stack._losses(stack, output, target))
        return torch.cat(found)

    readout.__class__ = _Unread
    stack._losses = losses
    stack._loss_function = compiled(losses, dynamic=False)


class _Unread(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x


class JointStack(Stack):
    """One graph of outputs, losses, gradients and updates, without a cut between them."""

    whole_step: Callable[[Tensor, Tensor, Tensor], Tensor]

    def _step(self) -> dict[str, Tensor]:
        x, target = self._batches()
        with torch.no_grad():
            losses = self.whole_step(x, target, self._k_on_device)
            self.losses.index_copy_(0, self._k_on_device, losses[None])
            self._k_on_device.add_(1)
        return {}


def _join(stack: Stack) -> None:
    def total(weights: dict[str, Tensor], x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        lower = stack._autocast is not None
        with torch.autocast(stack.device.type, stack._autocast, enabled=lower):
            output = torch.func.functional_call(stack.model, weights, (x,))
        losses = stack._losses(output, target)
        return losses.sum(), losses

    shapes = {name: weight.shape for name, weight in stack.weights.items()}

    def whole_step(x: Tensor, target: Tensor, k: Tensor) -> Tensor:
        slots = stack.optimizer._slots
        weights = {name: slot.weight.view(shapes[name]) for name, slot in slots.items()}
        gradients, losses = torch.func.grad(total, has_aux=True)(weights, x, target)
        stack.optimizer.step(gradients, k, 0)
        return losses

    stack.__class__ = JointStack
    stack.whole_step = compiled(whole_step, dynamic=False)


# Compilation


def _compile(stack: Stack, way: Way) -> None:
    """Stacks have compiled their blocks and losses; take it back where a way says so."""
    if way.compile in ("nothing", "whole", "joint"):
        for block in stack.model.blocks:
            block.__dict__.pop("forward", None)
    if way.compile == "nothing":
        stack._loss_function = stack._losses
    elif way.compile == "whole":
        forward = stack.forward
        losses = stack._losses

        def as_one(x: Tensor, target: Tensor) -> Tensor:
            return losses(forward(x), target)

        stack.forward = lambda x: x
        stack._loss_function = compiled(as_one, dynamic=False)
    elif way.compile == "joint":
        _join(stack)
    elif way.compile == "edges":
        stack.model.embedding.forward = compiled(stack.model.embedding.forward, dynamic=False)
        stack.model.norm.forward = compiled(stack.model.norm.forward, dynamic=False)


# A whole way


def change(stack: Stack, way: Way) -> None:
    """Make a stack that has not trained yet compute its steps in this way."""
    for module in stack.model.modules():
        if isinstance(module, layers.ScaledLinear):
            module.__class__ = Linear
            module.gains = ()
        elif isinstance(module, layers.Embedding):
            module.__class__ = Embedding
        elif isinstance(module, gpt.Attention):
            module.__class__ = Attention
        elif isinstance(module, gpt.FeedForward) and way.gelu == "exponential":
            module.__class__ = FeedForward
        else:
            continue
        module.way = way
    if way.attention == "flex":
        block_size = dict(way.flex_options)["BLOCK_SIZE"]
        mask = _causal(stack.model.config.context, stack.device, block_size)
        for block in stack.model.blocks:
            block.attention.mask = mask
    if way.norms == "folded":
        for block in stack.model.blocks:
            _fold(block.attention_norm, block.attention.query, block.attention.key_value)
            _fold(block.mlp_norm, block.mlp.up)
    if way.loss_parts > 1:
        _losses_in_parts(stack, way.loss_parts)
    if way.weights == "copies":
        _use_copies(stack)
    if way.update == "one":
        _one_update(stack)
    _compile(stack, way)


def _fold(norm: nn.Module, *following: Linear) -> None:
    norm.__class__ = FoldedNorm
    for linear in following:
        linear.gains = (norm,)


@contextmanager
def settings(way: Way) -> Iterator[None]:
    """What has to hold while the step is compiled and captured."""
    with ExitStack() as stack:
        for context in _contexts(way):
            stack.enter_context(context())
        yield


def _contexts(way: Way) -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    if way.inductor:
        yield partial(torch._inductor.config.patch, dict(way.inductor))
    if way.sdpa is not None:
        yield partial(sdpa_kernel, [way.sdpa])
    if way.update == "one" or way.compile == "joint":
        yield partial(patch.object, optimizer, "_compiled", lambda update: update)
    if way.library:
        yield partial(_library, way.library)


@contextmanager
def _library(name: str) -> Iterator[None]:
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(name)
    yield
    torch.backends.cuda.preferred_blas_library(before)
