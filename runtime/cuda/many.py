"""Products on a GPU's tensor cores: tiles of 16 outputs or more against tiles of 8 rows or more.

The weights are the first operand, whose tiles have 16 rows at least: five rows of inputs then take tiles of 8.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.cuda.few import as_numbers
from runtime.cuda.launch import let_next_start, wait_for_last


@triton.jit
def _columns(k, B: tl.constexpr, C: tl.constexpr):
    """Return the inputs k … k + B · C, `[B, 1, C]`: each of the B parts is summed by warps of its own."""
    return k + tl.arange(0, B)[:, None, None] * C + tl.arange(0, C)[None, None, :]


@triton.jit
def _stored(weight, scale, k, width, KIND: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """Load weights at inputs k … k + B · C as they are stored, `[B, N, C]`, and NF4's scales beside them, `[B, N]`.

    `weight` and `scale` `[N]` point at the rows' first elements.
    """
    if KIND == 2:  # each part is one block of 64 weights, which share a scale
        tl.static_assert(C == 64)
        blocks = k // 64 + tl.arange(0, B)[:, None]
        inside = blocks < width // 64
        bytes_ = blocks[:, :, None] * 32 + tl.arange(0, 32)[None, None, :]
        packed = tl.load(weight[None, :, None] + bytes_, mask=inside[:, :, None], other=0)
        return packed, tl.load(scale[None, :] + blocks, mask=inside, other=0.0)
    else:
        columns = _columns(k, B, C)
        tile = tl.load(weight[None, :, None] + columns, mask=columns < width, other=0)
        return tile, tile


@triton.jit
def _inputs(x, k, width, real, B: tl.constexpr, C: tl.constexpr):
    """Load `[B, M, C]` of the rows; `x` `[M]` points at their first elements."""
    columns = _columns(k, B, C)
    return tl.load(x[None, :, None] + columns, mask=real[None, :, None] & (columns < width), other=0.0)


@triton.jit
def _gain(gain, k, width, B: tl.constexpr, C: tl.constexpr):
    """Load the norm's gain of these inputs, `[B, 1, C]`."""
    columns = _columns(k, B, C)
    return tl.load(gain + columns, mask=columns < width, other=0.0)


@triton.jit
def _norm_scale(x, width, real, epsilon, M: tl.constexpr):
    """Return 1 / rms of each row, float32 `[M]`."""
    C: tl.constexpr = max(4096 // M, 64)
    total = tl.zeros([M, C], tl.float32)
    for k in tl.range(0, width, C, num_stages=4):  # so that loads do not wait for each other
        columns = (k + tl.arange(0, C))[None, :]
        tile = tl.load(x[:, None] + columns, mask=real[:, None] & (columns < width), other=0.0).to(tl.float32)
        total += tile * tile
    return tl.rsqrt(tl.sum(total, 1) / width + epsilon)


@triton.jit
def _multiplied(
    stored, peak, code, tile, total, KIND: tl.constexpr, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """Add a tile's product to `total`, `[B, N, M]`, of one part `[N, M]`; NF4's scales scale their blocks' sums."""
    w = tl.reshape(as_numbers(stored, code, tile.dtype, KIND), [B, N, C])
    if B == 1:
        tl.static_assert(KIND != 2)
        return tl.dot(tl.reshape(w, [N, C]), tl.trans(tl.reshape(tile, [M, C])), total, input_precision="ieee")
    elif KIND == 2:
        return total + tl.dot(w, tl.permute(tile, (0, 2, 1)), input_precision="ieee") * peak[:, :, None]
    else:
        return tl.dot(w, tl.permute(tile, (0, 2, 1)), total, input_precision="ieee")


@triton.jit
def many_product(
    x, gain, epsilon, width, real, weight, scale, code, KIND: tl.constexpr, NORM: tl.constexpr, EARLY: tl.constexpr,
    B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Return norm(x) · Wᵀ, float32 `[M, N]`, with `STAGES` − 1 tiles on their way; pointers as of `_stored` and
    `_inputs`."""
    wait_for_last(EARLY)
    norm = _norm_scale(x, width, real, epsilon, M) if NORM else tl.zeros([M], tl.float32)
    total = tl.zeros([N, M] if B == 1 else [B, N, M], tl.float32)
    for k in tl.range(0, width, B * C, num_stages=STAGES):
        stored, peak = _stored(weight, scale, k, width, KIND, B, C)
        tile = _inputs(x, k, width, real, B, C)
        if NORM:
            tile = (tile.to(tl.float32) * norm[None, :, None]).to(tile.dtype) * _gain(gain, k, width, B, C)
        total = _multiplied(stored, peak, code, tile, total, KIND, B, M, N, C)
    let_next_start(EARLY)
    return tl.trans(total if B == 1 else tl.sum(total, 0))
