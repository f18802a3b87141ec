"""Causal attention with rotary positions in four Triton kernels, for short texts and small heads.

Queries, keys and values are read as one product has left them, (N, T, 3, H, D). Queries and keys
are rotated once, (N, T, 2, H, D), which is kept for the gradient; the gradients are rotated back
where they are written. A program has a block of queries (or of keys) of one head. The algorithm is
that of FlashAttention 2 (Dao 2023), without atomic additions: the gradients of queries and of keys
are two kernels.

T must be a multiple of the blocks, and D at least 16. Logarithms are to base 2, as the hardware's.
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
    (64, 32, 4, 3),
    (64, 64, 4, 3),
    (32, 32, 1, 3),
    (32, 64, 2, 3),
    (128, 64, 4, 2),
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
def _rows(x, stride, rows, WIDTH: tl.constexpr):
    """Where rows of x (M, WIDTH) are, which are `stride` apart."""
    return x + rows[:, None] * stride + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _rotate(qkv, cos, sin, rotated, length, heads, D: tl.constexpr, ROWS: tl.constexpr):
    """Write queries and keys (N, T, 2, H, D), rotated; a program has some of its rows of D."""
    HALF: tl.constexpr = D // 2
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tokens = rows // (2 * heads)
    a_at = qkv + (rows + tokens * heads)[:, None] * D + tl.arange(0, HALF)[None, :]
    a = tl.load(a_at).to(tl.float32)
    b = tl.load(a_at + HALF).to(tl.float32)
    c = tl.load(_rows(cos, HALF, tokens % length, HALF))
    s = tl.load(_rows(sin, HALF, tokens % length, HALF))
    to = _rows(rotated, D, rows, HALF)
    tl.store(to, (a * c - b * s).to(rotated.dtype.element_ty))
    tl.store(to + HALF, (a * s + b * c).to(rotated.dtype.element_ty))


@triton.jit
def _store_rotated_back(grad, stride, cos, sin, rows, g, D: tl.constexpr):
    HALF: tl.constexpr = D // 2
    halves = tl.reshape(g, (g.shape[0], 2, HALF))
    a, b = tl.split(tl.permute(halves, (0, 2, 1)))
    c = tl.load(_rows(cos, HALF, rows, HALF))
    s = tl.load(_rows(sin, HALF, rows, HALF))
    to = _rows(grad, stride, rows, HALF)
    tl.store(to, (a * c + b * s).to(grad.dtype.element_ty))
    tl.store(to + HALF, (b * c - a * s).to(grad.dtype.element_ty))


@triton.jit
def _place(block_count, length, heads):
    """The block of a program, its head's first token, and the head's number in all and in N."""
    block = tl.program_id(0) % block_count
    head = tl.program_id(0) // block_count
    return block, (head // heads).to(tl.int64) * length, head.to(tl.int64), head % heads


@triton.jit
def _average(
    sums,
    total,
    largest,
    q,
    queries,
    k_at,
    v_at,
    heads,
    scale,
    start,
    end,
    D: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Go on summing values by their weights, over the keys from `start` to `end`."""
    for first in range(start, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = tl.load(_rows(k_at, 2 * heads * D, keys, D))
        v = tl.load(_rows(v_at, 3 * heads * D, keys, D))
        logits = tl.dot(q, tl.trans(k)) * scale
        if MASKED:
            logits = tl.where(queries[:, None] >= keys[None, :], logits, -float("inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        weights = tl.exp2(logits - larger[:, None])
        rescale = tl.exp2(largest - larger)
        total = total * rescale + tl.sum(weights, 1)
        sums = tl.dot(weights.to(v.dtype), v, sums * rescale[:, None])
        largest = larger
    return sums, total, largest


@tuned
def _forward(
    qkv,
    rotated,
    out,
    log_sums,
    scale,
    length,
    heads,
    D: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Write `out` (N, T, H, D) and the logarithm of the sum of a query's weights, (N, H, T)."""
    block, token, head, place = _place(length // QUERIES, length, heads)
    q_at = rotated + (token * 2 * heads + place) * D
    v_at = qkv + (token * 3 * heads + 2 * heads + place) * D
    k_at = q_at + heads * D
    queries = block * QUERIES + tl.arange(0, QUERIES)
    q = tl.load(_rows(q_at, 2 * heads * D, queries, D))
    largest = tl.full((QUERIES,), -float("inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    sums = tl.zeros((QUERIES, D), tl.float32)
    past = block * QUERIES // KEYS * KEYS
    sums, total, largest = _average(
        sums, total, largest, q, queries, k_at, v_at, heads, scale, 0, past, D, KEYS, False
    )
    end = (block + 1) * QUERIES
    sums, total, largest = _average(
        sums, total, largest, q, queries, k_at, v_at, heads, scale, past, end, D, KEYS, True
    )
    y = (sums / total[:, None]).to(out.dtype.element_ty)
    tl.store(_rows(out + (token * heads + place) * D, heads * D, queries, D), y)
    tl.store(log_sums + head * length + queries, largest + tl.log2(total))


@triton.jit
def _gradient_of_queries(
    grad,
    q,
    g,
    mean,
    log_sum,
    queries,
    k_at,
    v_at,
    heads,
    scale,
    start,
    end,
    D: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Go on with the gradient of queries, over the keys from `start` to `end`."""
    for first in range(start, end, KEYS):
        keys = first + tl.arange(0, KEYS)
        k = tl.load(_rows(k_at, 2 * heads * D, keys, D))
        v = tl.load(_rows(v_at, 3 * heads * D, keys, D))
        weights = tl.exp2(tl.dot(q, tl.trans(k)) * scale - log_sum[:, None])
        if MASKED:
            weights = tl.where(queries[:, None] >= keys[None, :], weights, 0.0)
        grad_logits = weights * (tl.dot(g, tl.trans(v)) - mean[:, None])
        grad = tl.dot(grad_logits.to(k.dtype), k, grad)
    return grad


@tuned
def _backward_queries(
    qkv,
    rotated,
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
    D: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Write the gradients of queries, and `means` = sum_d grad_out out (N, H, T)."""
    block, token, head, place = _place(length // QUERIES, length, heads)
    q_at = rotated + (token * 2 * heads + place) * D
    k_at = q_at + heads * D
    v_at = qkv + (token * 3 * heads + 2 * heads + place) * D
    queries = block * QUERIES + tl.arange(0, QUERIES)
    q = tl.load(_rows(q_at, 2 * heads * D, queries, D))
    in_out = (token * heads + place) * D
    g = tl.load(_rows(grad_out + in_out, heads * D, queries, D))
    y = tl.load(_rows(out + in_out, heads * D, queries, D))
    mean = tl.sum(g.to(tl.float32) * y.to(tl.float32), 1)
    tl.store(means + head * length + queries, mean)
    log_sum = tl.load(log_sums + head * length + queries)
    gq = tl.zeros((QUERIES, D), tl.float32)
    past = block * QUERIES // KEYS * KEYS
    gq = _gradient_of_queries(
        gq, q, g, mean, log_sum, queries, k_at, v_at, heads, scale, 0, past, D, KEYS, False
    )
    end = (block + 1) * QUERIES
    gq = _gradient_of_queries(
        gq, q, g, mean, log_sum, queries, k_at, v_at, heads, scale, past, end, D, KEYS, True
    )
    natural = scale * 0.6931471805599453  # a logit is `scale` of base 2 times q.k
    to = grad + (token * 3 * heads + place) * D
    _store_rotated_back(to, 3 * heads * D, cos, sin, queries, gq * natural, D)


@triton.jit
def _gradient_of_keys(
    grad_k,
    grad_v,
    k,
    v,
    keys,
    q_at,
    g_at,
    log_sum_at,
    mean_at,
    heads,
    scale,
    start,
    end,
    D: tl.constexpr,
    QUERIES: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Go on with the gradients of keys and values, over the queries from `start` to `end`.

    Everything is transposed: (keys, queries).
    """
    for first in range(start, end, QUERIES):
        queries = first + tl.arange(0, QUERIES)
        q = tl.load(_rows(q_at, 2 * heads * D, queries, D))
        g = tl.load(_rows(g_at, heads * D, queries, D))
        log_sum = tl.load(log_sum_at + queries)
        mean = tl.load(mean_at + queries)
        weights = tl.exp2(tl.dot(k, tl.trans(q)) * scale - log_sum[None, :])
        if MASKED:
            weights = tl.where(queries[None, :] >= keys[:, None], weights, 0.0)
        grad_v = tl.dot(weights.to(g.dtype), g, grad_v)
        grad_logits = weights * (tl.dot(v, tl.trans(g)) - mean[None, :])
        grad_k = tl.dot(grad_logits.to(q.dtype), q, grad_k)
    return grad_k, grad_v


@tuned
def _backward_keys(
    qkv,
    rotated,
    cos,
    sin,
    log_sums,
    grad_out,
    means,
    grad,
    scale,
    length,
    heads,
    D: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Write the gradients of keys and values."""
    block, token, head, place = _place(length // KEYS, length, heads)
    q_at = rotated + (token * 2 * heads + place) * D
    g_at = grad_out + (token * heads + place) * D
    v_at = qkv + (token * 3 * heads + 2 * heads + place) * D
    log_sum_at = log_sums + head * length
    mean_at = means + head * length
    keys = block * KEYS + tl.arange(0, KEYS)
    k = tl.load(_rows(q_at + heads * D, 2 * heads * D, keys, D))
    v = tl.load(_rows(v_at, 3 * heads * D, keys, D))
    gk = tl.zeros((KEYS, D), tl.float32)
    gv = tl.zeros((KEYS, D), tl.float32)
    start = block * KEYS // QUERIES * QUERIES
    future = ((block + 1) * KEYS + QUERIES - 1) // QUERIES * QUERIES
    gk, gv = _gradient_of_keys(
        gk,
        gv,
        k,
        v,
        keys,
        q_at,
        g_at,
        log_sum_at,
        mean_at,
        heads,
        scale,
        start,
        future,
        D,
        QUERIES,
        True,
    )
    gk, gv = _gradient_of_keys(
        gk,
        gv,
        k,
        v,
        keys,
        q_at,
        g_at,
        log_sum_at,
        mean_at,
        heads,
        scale,
        future,
        length,
        D,
        QUERIES,
        False,
    )
    natural = scale * 0.6931471805599453
    to = grad + (token * 3 * heads + heads + place) * D
    _store_rotated_back(to, 3 * heads * D, cos, sin, keys, gk * natural, D)
    at_values = _rows(to + heads * D, 3 * heads * D, keys, D)
    tl.store(at_values, gv.to(grad.dtype.element_ty))


def _launch(kernel: Any, block: str, qkv: Tensor, scale: float, *tensors: Tensor) -> None:
    count, length, _, heads, size = qkv.shape

    def grid(sizes: dict[str, int]) -> tuple[int]:
        return (count * heads * (length // sizes[block]),)

    kernel[grid](qkv, *tensors, scale / math.log(2), length, heads, D=size)


def _empty(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count, length, _, heads, size = qkv.shape
    out = qkv.new_empty(count, length, heads, size)
    log_sums = qkv.new_empty(count, heads, length, dtype=torch.float32)
    return out, log_sums, qkv.new_empty(count, length, 2, heads, size)


@torch.library.custom_op("benchmark::rotary_attention", mutates_args=())
def _attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    count, length, _, heads, size = qkv.shape
    out, log_sums, rotated = _empty(qkv)
    rows = count * length * 2 * heads
    per_program = math.gcd(rows, 128)
    _rotate[(rows // per_program,)](qkv, cos, sin, rotated, length, heads, D=size, ROWS=per_program)
    _launch(_forward, "QUERIES", qkv, scale, rotated, out, log_sums)
    return out, log_sums, rotated


@_attention.register_fake
def _(qkv: Tensor, cos: Tensor, sin: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(qkv)


@torch.library.custom_op("benchmark::rotary_attention_backward", mutates_args=())
def _attention_backward(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    out: Tensor,
    log_sums: Tensor,
    rotated: Tensor,
    grad_out: Tensor,
    scale: float,
) -> Tensor:
    grad = torch.empty_like(qkv)
    means = torch.empty_like(log_sums)
    shared = (log_sums, grad_out, means, grad)
    _launch(_backward_queries, "QUERIES", qkv, scale, rotated, cos, sin, out, *shared)
    _launch(_backward_keys, "KEYS", qkv, scale, rotated, cos, sin, *shared)
    return grad


@_attention_backward.register_fake
def _(qkv: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(qkv)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    qkv, cos, sin, ctx.scale = inputs
    ctx.save_for_backward(qkv, cos, sin, *output)


def _backward(ctx: Any, grad_out: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
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
