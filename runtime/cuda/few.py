"""Products of few rows on a GPU's plain cores: weights go from memory to registers alone, eight inputs to a thread.

Tensor cores multiply tiles of 8 rows at least. For one row or two that is more than the sums themselves take.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.cuda.launch import let_next_start, wait_for_last
from runtime.cuda.nf4 import decoded


@triton.jit
def _stored(weight, scale, k, width, KIND: tl.constexpr, C: tl.constexpr):
    """Load weights at inputs k … k + C as they are stored, `[C / 8, 1, N, …]`, and NF4's scales beside them.

    `weight` and `scale` `[N]` point at the rows' first elements. The groups of inputs come first in all tensors here:
    Triton then gives the same ones to a thread in each, and nothing moves between threads before the end.
    """
    groups = k // 8 + tl.arange(0, C // 8)
    if KIND == 2:  # four bytes hold eight weights
        inside = (groups < width // 8)[:, None, None]
        at = weight[None, None, :, None] + (groups * 4)[:, None, None, None] + tl.arange(0, 4)[None, None, None, :]
        packed = tl.load(at, mask=inside[:, :, :, None], other=0)
        return packed, tl.load(scale[None, None, :] + (groups // 8)[:, None, None], mask=inside, other=0.0)
    else:
        columns = (groups * 8)[:, None, None, None] + tl.arange(0, 8)[None, None, None, :]
        tile = tl.load(weight[None, None, :, None] + columns, mask=columns < width, other=0)
        return tile, tile


@triton.jit
def as_float16(whole):
    """Return int8 numbers as float16: the bits of 1024 + 128 + w, of which 1152 is taken.

    Exact, and far faster than a conversion.
    """
    bits = (whole.to(tl.uint8, bitcast=True) ^ 0x80).to(tl.int16) | 0x6400
    return bits.to(tl.float16, bitcast=True) - 1152.0


@triton.jit
def as_numbers(stored, code, dtype: tl.constexpr, KIND: tl.constexpr):
    """Return weights as numbers of the type, without scales: those of NF4's bytes `[…]` as `[…, 2]`."""
    if KIND == 2:
        return decoded(stored, code, dtype)
    elif KIND == 1 and dtype == tl.float16:
        return as_float16(stored)
    else:
        return stored.to(dtype)


@triton.jit
def few_product(
    x, gain, epsilon, width, real, weight, scale, code, KIND: tl.constexpr, NORM: tl.constexpr, EARLY: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """Return norm(x) · Wᵀ, float32 `[M, N]`; pointers as of `_stored`, and `x` `[M]` at the rows' first elements.

    The norm divides the sum, not what is summed: both sums come of one pass over x, without rounding between.
    """
    dtype: tl.constexpr = x.dtype.element_ty
    # Weights are loaded a tile ahead, the first ones while the kernel that writes x may still run.
    stored, peak = _stored(weight, scale, 0, width, KIND, C)
    wait_for_last(EARLY)
    total = tl.zeros([C // 8, M, N], tl.float32)
    squares = tl.zeros([C // 8, M, 1], tl.float32)
    for k in range(0, C if ONCE else width, C):
        if not ONCE:
            next_stored, next_peak = _stored(weight, scale, k + C, width, KIND, C)
        columns = (k + tl.arange(0, C // 8) * 8)[:, None, None, None] + tl.arange(0, 8)[None, None, None, :]
        mask = real[None, :, None, None] & (columns < width)
        tile = tl.load(x[None, :, None, None] + columns, mask=mask, other=0.0).to(tl.float32)  # [C / 8, M, 1, 8]
        if NORM:
            squares += tl.sum(tile * tile, 3)
            tile *= tl.load(gain + columns, mask=columns < width, other=0.0).to(tl.float32)
        weights = tl.reshape(as_numbers(stored, code, dtype, KIND), [C // 8, 1, N, 8])
        product = tl.sum(weights.to(tl.float32) * tile, 3)
        total += product * peak if KIND == 2 else product
        if not ONCE:
            stored, peak = next_stored, next_peak
    let_next_start(EARLY)  # not sooner: its programs would take the place of this kernel's
    product = tl.sum(total, 0)
    if NORM:
        product *= tl.rsqrt(tl.sum(squares, 0) / width + epsilon)
    return product
