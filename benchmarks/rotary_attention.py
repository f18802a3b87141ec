"""Causal attention with rotary positions in three Triton kernels, for short texts and small heads.

Queries, keys and values are read as one product has left them, (N, T, 3, H, D), and rotated where
they are used; nothing but them, the result and a number for each query is in memory. A program
has a block of queries (or of keys) of one head. The algorithm is FlashAttention 2 (Dao
2023), without atomic additions: the gradients of queries and of keys are two kernels.

T must be a multiple of the blocks, and D at least 32. Logarithms are to base 2, as the hardware's.
"""

import math
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# On a CPU (TRITON_INTERPRET=1), to try the same code
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SIZES = (
    # queries, keys, warps, stages
    (64, 64, 4, 2),
    (64, 64, 2, 2),
    (64, 32, 4, 2),
    (32, 64, 2, 2),
    (128, 32, 4, 2),
    (128, 64, 4, 2),
    (128, 64, 8, 2),
    (64, 128, 4, 2),
    (128, 128, 8, 2),
)


def tuned(kernel: Any) -> Any:
    """The kernel with the fastest of `SIZES`, which its first call looks for."""
    configs = [
        triton.Config({"QUERIES": queries, "KEYS": keys}, num_warps=warps, num_stages=stages)
        for queries, keys, warps, stages in SIZES
    ]
    if INTERPRETED:
        configs = [triton.Config({"QUERIES": 16, "KEYS": 32})]
    return triton.autotune(configs, key=["length", "heads"])(triton.jit(kernel))


@triton.jit
def _angles(cos, sin, rows, HALF: tl.constexpr):
    at = rows[:, None] * HALF + tl.arange(0, HALF)[None, :]
    return tl.load(cos + at), tl.load(sin + at)


@triton.jit
def _rotated(x, stride, cos, sin, rows, HALF: tl.constexpr):
    """Both halves (M, D / 2) of rows of x, rotated, in the dtype of x."""
    at = rows[:, None] * stride + tl.arange(0, HALF)[None, :]
    a = tl.load(x + at)
    b = tl.load(x + at + HALF)
    c, s = _angles(cos, sin, rows, HALF)
    dtype = a.dtype
    a = a.to(tl.float32)
    b = b.to(tl.float32)
    return (a * c - b * s).to(dtype), (a * s + b * c).to(dtype)


@triton.jit
def _store_rotated_back(x, stride, cos, sin, rows, a, b, HALF: tl.constexpr):
    at = rows[:, None] * stride + tl.arange(0, HALF)[None, :]
    c, s = _angles(cos, sin, rows, HALF)
    dtype = x.dtype.element_ty
    tl.store(x + at, (a * c + b * s).to(dtype))
    tl.store(x + at + HALF, (b * c - a * s).to(dtype))


@triton.jit
def _rows(x, stride, rows, WIDTH: tl.constexpr):
    return x + rows[:, None] * stride + tl.arange(0, WIDTH)[None, :]


@tuned
def _forward(
    qkv,
    cos,
    sin,
    out,
    log_sums,
    scale,
    length,
    heads,
    HALF: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Write `out` (N, T, H, D) and the logarithm of the sum of a query's weights, (N, H, T)."""
    D: tl.constexpr = 2 * HALF
    blocks = length // QUERIES
    block = tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks
    first_token = (head // heads).to(tl.int64) * length
    stride = 3 * heads * D
    q_at = qkv + first_token * stride + (head % heads) * D
    queries = block * QUERIES + tl.arange(0, QUERIES)
    qa, qb = _rotated(q_at, stride, cos, sin, queries, HALF)
    largest = tl.full((QUERIES,), -float("inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    sums = tl.zeros((QUERIES, D), tl.float32)
    for start in range(0, (block + 1) * QUERIES, KEYS):
        keys = start + tl.arange(0, KEYS)
        ka, kb = _rotated(q_at + heads * D, stride, cos, sin, keys, HALF)
        v = tl.load(_rows(q_at + 2 * heads * D, stride, keys, D))
        logits = tl.dot(qb, tl.trans(kb), tl.dot(qa, tl.trans(ka))) * scale
        logits = tl.where(queries[:, None] >= keys[None, :], logits, -float("inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - larger[:, None])
        rescale = tl.exp2(largest - larger)
        total = total * rescale + tl.sum(weights, 1)
        sums = tl.dot(weights.to(v.dtype), v, sums * rescale[:, None])
        largest = larger
    y = (sums / total[:, None]).to(out.dtype.element_ty)
    tl.store(_rows(out + first_token * heads * D + (head % heads) * D, heads * D, queries, D), y)
    tl.store(log_sums + head.to(tl.int64) * length + queries, largest + tl.log2(total))


@tuned
def _backward_queries(
    qkv,
    cos,
    sin,
    out,
    log_sums,
    grad_out,
    means,
    grad,
    scale,
    length,
    heads,
    HALF: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Write the gradients of queries, and `means` = sum_d grad_out out (N, H, T)."""
    D: tl.constexpr = 2 * HALF
    blocks = length // QUERIES
    block = tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks
    first_token = (head // heads).to(tl.int64) * length
    stride = 3 * heads * D
    of_head = first_token * stride + (head % heads) * D
    of_out = first_token * heads * D + (head % heads) * D
    of_query = head.to(tl.int64) * length
    q_at = qkv + of_head
    queries = block * QUERIES + tl.arange(0, QUERIES)
    qa, qb = _rotated(q_at, stride, cos, sin, queries, HALF)
    g = tl.load(_rows(grad_out + of_out, heads * D, queries, D))
    y = tl.load(_rows(out + of_out, heads * D, queries, D))
    mean = tl.sum(g.to(tl.float32) * y.to(tl.float32), 1)
    tl.store(means + of_query + queries, mean)
    log_sum = tl.load(log_sums + of_query + queries)
    ga = tl.zeros((QUERIES, HALF), tl.float32)
    gb = tl.zeros((QUERIES, HALF), tl.float32)
    for start in range(0, (block + 1) * QUERIES, KEYS):
        keys = start + tl.arange(0, KEYS)
        ka, kb = _rotated(q_at + heads * D, stride, cos, sin, keys, HALF)
        v = tl.load(_rows(q_at + 2 * heads * D, stride, keys, D))
        logits = tl.dot(qb, tl.trans(kb), tl.dot(qa, tl.trans(ka))) * scale
        weights = tl.exp2(logits - log_sum[:, None])
        weights = tl.where(queries[:, None] >= keys[None, :], weights, 0.0)
        grad_weights = tl.dot(g, tl.trans(v))
        grad_logits = (weights * (grad_weights - mean[:, None])).to(g.dtype)
        ga = tl.dot(grad_logits, ka, ga)
        gb = tl.dot(grad_logits, kb, gb)
    natural = scale * 0.6931471805599453  # a logit is `scale` of base 2 times q.k
    _store_rotated_back(grad + of_head, stride, cos, sin, queries, ga * natural, gb * natural, HALF)


@tuned
def _backward_keys(
    qkv,
    cos,
    sin,
    log_sums,
    grad_out,
    means,
    grad,
    scale,
    length,
    heads,
    HALF: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Write the gradients of keys and values; everything is transposed, (keys, queries)."""
    D: tl.constexpr = 2 * HALF
    blocks = length // KEYS
    block = tl.program_id(0) % blocks
    head = tl.program_id(0) // blocks
    first_token = (head // heads).to(tl.int64) * length
    stride = 3 * heads * D
    of_head = first_token * stride + (head % heads) * D
    of_out = first_token * heads * D + (head % heads) * D
    of_query = head.to(tl.int64) * length
    q_at = qkv + of_head
    keys = block * KEYS + tl.arange(0, KEYS)
    ka, kb = _rotated(q_at + heads * D, stride, cos, sin, keys, HALF)
    v = tl.load(_rows(q_at + 2 * heads * D, stride, keys, D))
    ga = tl.zeros((KEYS, HALF), tl.float32)
    gb = tl.zeros((KEYS, HALF), tl.float32)
    gv = tl.zeros((KEYS, D), tl.float32)
    for start in range(block * KEYS // QUERIES * QUERIES, length, QUERIES):
        queries = start + tl.arange(0, QUERIES)
        qa, qb = _rotated(q_at, stride, cos, sin, queries, HALF)
        g = tl.load(_rows(grad_out + of_out, heads * D, queries, D))
        log_sum = tl.load(log_sums + of_query + queries)
        mean = tl.load(means + of_query + queries)
        logits = tl.dot(kb, tl.trans(qb), tl.dot(ka, tl.trans(qa))) * scale
        weights = tl.exp2(logits - log_sum[None, :])
        weights = tl.where(queries[None, :] >= keys[:, None], weights, 0.0)
        gv = tl.dot(weights.to(g.dtype), g, gv)
        grad_weights = tl.dot(v, tl.trans(g))
        grad_logits = (weights * (grad_weights - mean[None, :])).to(g.dtype)
        ga = tl.dot(grad_logits, qa, ga)
        gb = tl.dot(grad_logits, qb, gb)
    natural = scale * 0.6931471805599453
    at_keys = grad + of_head + heads * D
    _store_rotated_back(at_keys, stride, cos, sin, keys, ga * natural, gb * natural, HALF)
    at_values = _rows(grad + of_head + 2 * heads * D, stride, keys, D)
    tl.store(at_values, gv.to(grad.dtype.element_ty))


def _launch(kernel: Any, block: str, qkv: Tensor, scale: float, *tensors: Tensor) -> None:
    count, length, _, heads, size = qkv.shape

    def grid(sizes: dict[str, int]) -> tuple[int]:
        return (count * heads * (length // sizes[block]),)

    kernel[grid](qkv, *tensors, scale / math.log(2), length, heads, HALF=size // 2)


@torch.library.custom_op("benchmark::rotary_attention", mutates_args=())
def _attention(qkv: Tensor, cos: Tensor, sin: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    count, length, _, heads, size = qkv.shape
    out = qkv.new_empty(count, length, heads, size)
    log_sums = qkv.new_empty(count, heads, length, dtype=torch.float32)
    _launch(_forward, "QUERIES", qkv, scale, cos, sin, out, log_sums)
    return out, log_sums


@_attention.register_fake
def _(qkv: Tensor, cos: Tensor, sin: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    count, length, _, heads, size = qkv.shape
    log_sums = qkv.new_empty(count, heads, length, dtype=torch.float32)
    return qkv.new_empty(count, length, heads, size), log_sums


@torch.library.custom_op("benchmark::rotary_attention_backward", mutates_args=())
def _attention_backward(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    log_sums: Tensor,
    grad_out: Tensor,
    scale: float,
) -> Tensor:
    grad = torch.empty_like(qkv)
    means = torch.empty_like(log_sums)
    shared = (log_sums, grad_out, means, grad)
    _launch(_backward_queries, "QUERIES", qkv, scale, cos, sin, out, *shared)
    _launch(_backward_keys, "KEYS", qkv, scale, cos, sin, *shared)
    return grad


@_attention_backward.register_fake
def _(qkv: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(qkv)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    qkv, cos, sin, ctx.scale = inputs
    ctx.save_for_backward(qkv, cos, sin, *output)


def _backward(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    grad = _attention_backward(*tensors, grad_out.contiguous(), ctx.scale)
    return grad, None, None, None


_attention.register_autograd(_backward, setup_context=_save)


def rotary_attention(qkv: Tensor, cos: Tensor, sin: Tensor, scale: float) -> Tensor:
    """Rotate queries and keys, and average values by softmax(scale q.k) over the past.

    Args:
        qkv: (N, T, 3, H, D), contiguous.
        cos: (T, D / 2) in float32, as `mupl.models.gpt.Rotary` has it, and `sin`.

    Returns:
        (N, T, H, D).
    """
    return _attention(qkv.contiguous(), cos, sin, scale)[0]


def chosen_sizes() -> str:
    """The sizes that the kernels were found to be fastest with: queries x keys, warps."""
    found = []
    for kernel in (_forward, _backward_queries, _backward_keys):
        config = kernel.best_config
        found.append("{QUERIES}x{KEYS}".format(**config.kwargs) + f" by {config.num_warps}")
    return ", ".join(found)
