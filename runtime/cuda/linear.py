"""Linear layers on few rows: weights in floating point, LLM.int8's or NF4's form are read once, as they are stored.

What stands beside a linear layer in a decoder is done in the same kernel: the norm before it, the residual after it,
the gate of the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.cuda.few import as_float16, few_product
from runtime.cuda.launch import EARLY, let_next_start, wait_for_last
from runtime.cuda.nf4 import decoded

FLOAT, INT8, NF4 = 0, 1, 2
NF4_BLOCK = 64
"""Weights that share a scale in NF4."""
FEW = ((2, 1 << 30), (4, 6000))
"""Rows and outputs up to which `few_product` is faster than tensor cores on an H200."""


@dataclass(frozen=True)
class Matrix:
    """The weights of a linear layer, `[outputs, inputs]`, in the form that they are stored in."""

    kind: int
    weight: Tensor
    """FLOAT: `[outputs, inputs]`. INT8: int8 `[outputs, inputs]`. NF4: uint8, two weights a byte, the even one in the
    high half."""
    scale: Tensor
    """INT8: float32 `[outputs]`, largest absolute weight of a row. NF4: float32 `[outputs · inputs / 64]`, of a
    block."""
    code: Tensor
    """NF4: float32 `[16]`, what each code stands for before scaling."""
    bias: Tensor | None
    """`[outputs]`."""
    outputs: int
    inputs: int


@dataclass(frozen=True)
class Tiles:
    """How a kernel divides a product: rows and outputs of a tile; its inputs, `splits` times `k`, each split's summed
    by warps of its own; and warps. With 0 splits, it is `few_product` that works on `k` inputs at a time."""

    m: int
    n: int
    k: int
    splits: int
    warps: int


def tiles(rows: int, outputs: int, inputs: int, kind: int) -> Tiles:
    """Return the division for a product.

    On an H200, for the shapes of models of 135 M to 3 B, those for up to 16 rows and for many outputs are the fastest
    or nearly so. Few outputs are divided finely for more rows, too: there are processors to spare.
    """
    if any(rows <= most_rows and outputs <= most_outputs for most_rows, most_outputs in FEW):
        return _few_tiles(triton.next_power_of_2(rows), outputs, inputs)
    m, n, k, splits = _division(rows, outputs, kind)
    width = triton.next_power_of_2(inputs)
    k = min(k, max(width, 32))
    return Tiles(m, n, k, splits=max(1, min(splits, width // k)), warps=4)


def _few_tiles(rows: int, outputs: int, inputs: int) -> Tiles:
    if inputs > 1024:
        return Tiles(rows, 4, 2048, splits=0, warps=8)
    k = max(triton.next_power_of_2(inputs), 256)  # a thread takes 8 inputs
    return Tiles(rows, 8 if outputs > 2500 else 4, k, splits=0, warps=k // 256)


def _division(rows: int, outputs: int, kind: int) -> tuple[int, int, int, int]:
    if outputs > 6000:
        if rows > 32:
            return (64, 32, 64, 2) if kind == NF4 else (64, 64, 64, 1)
        if rows > 16:
            return 32, 32, 64, 4
        return (16, 32, 128, 4) if kind == NF4 else (16, 64, 64, 4)
    if rows > 128:
        return 64, 32, 64, 2
    if rows > 16 and outputs > 2500:
        return 32, 32, 64, 4
    return 16, 16 if outputs >= 1024 or rows > 16 else 8, 128, 4


@triton.jit
def _stored(weight, scale, k, width, KIND: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    """Load weights at inputs k … k + B · C as they are stored, and NF4's scales beside them.

    `weight` and `scale` `[N]` point at the rows' first elements.
    """
    if KIND == 2:  # byte j holds the weights 2j and 2j + 1; 32 bytes share a scale
        blocks = k // 64 + tl.arange(0, B)[:, None] * (C // 64) + tl.arange(0, C // 64)[None, :]
        inside = blocks < width // 64
        bytes_ = blocks[:, :, None] * 32 + tl.arange(0, 32)[None, None, :]
        at = weight[None, :, None, None] + bytes_[:, None, :, :]
        packed = tl.load(at, mask=inside[:, None, :, None], other=0)
        peak = tl.load(scale[None, :, None] + blocks[:, None, :], mask=inside[:, None, :], other=0.0)
        return packed, peak
    else:
        columns = k + tl.arange(0, B)[:, None] * C + tl.arange(0, C)[None, :]
        tile = tl.load(weight[None, :, None] + columns[:, None, :], mask=(columns < width)[:, None, :], other=0)
        return tile, tile


@triton.jit
def _weights(
    stored, peak, code, dtype: tl.constexpr, KIND: tl.constexpr, B: tl.constexpr, N: tl.constexpr, C: tl.constexpr
):
    """Return what `_stored` loaded as numbers, `[B, C, N]`; INT8 without its scales, which `_finish` applies."""
    if KIND == 2:
        tile = tl.reshape((decoded(stored, code) * peak[:, :, :, None, None]).to(dtype), [B, N, C])
    elif KIND == 1 and dtype == tl.float16:
        tile = as_float16(stored)
    else:
        tile = stored.to(dtype)
    return tl.permute(tile, (0, 2, 1))


@triton.jit
def _inputs(x, k, width, real, B: tl.constexpr, C: tl.constexpr):
    """Load `[B, M, C]` of the rows; `x` `[M]` points at their first elements."""
    columns = k + tl.arange(0, B)[:, None] * C + tl.arange(0, C)[None, :]
    mask = real[None, :, None] & (columns < width)[:, None, :]
    return tl.load(x[None, :, None] + columns[:, None, :], mask=mask, other=0.0)


@triton.jit
def _norm_scale(x, width, real, epsilon, B: tl.constexpr, M: tl.constexpr, C: tl.constexpr):
    """Return 1 / rms of each row, float32 `[M]`."""
    total = tl.zeros([B, M, C], tl.float32)
    for k in tl.range(0, width, B * C, loop_unroll_factor=4):  # so that loads do not wait for each other
        tile = _inputs(x, k, width, real, B, C).to(tl.float32)
        total += tile * tile
    return tl.rsqrt(tl.sum(tl.sum(total, 2), 0) / width + epsilon)


@triton.jit
def _product(
    x, gain, epsilon, width, real, weight, scale, code, KIND: tl.constexpr, NORM: tl.constexpr, EARLY: tl.constexpr,
    B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """Return norm(x) · Wᵀ, float32 `[M, N]`; pointers as of `_inputs` and `_stored`."""
    if B == 0:
        return few_product(x, gain, epsilon, width, real, weight, scale, code, KIND, NORM, EARLY, M, N, C, ONCE)
    else:
        return _many(x, gain, epsilon, width, real, weight, scale, code, KIND, NORM, EARLY, B, M, N, C)


@triton.jit
def _many(
    x, gain, epsilon, width, real, weight, scale, code, KIND: tl.constexpr, NORM: tl.constexpr, EARLY: tl.constexpr,
    B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Return norm(x) · Wᵀ by tensor cores, as `few_product` does."""
    # Weights are loaded a tile ahead, the first ones while the kernel that writes x may still run.
    stored, peak = _stored(weight, scale, 0, width, KIND, B, C)
    wait_for_last(EARLY)
    norm = _norm_scale(x, width, real, epsilon, B, M, C) if NORM else tl.zeros([M], tl.float32)
    total = tl.zeros([B, M, N], tl.float32)
    next_tile = _inputs(x, 0, width, real, B, C)
    for k in range(0, width, B * C):
        next_stored, next_peak = _stored(weight, scale, k + B * C, width, KIND, B, C)
        tile, next_tile = next_tile, _inputs(x, k + B * C, width, real, B, C)
        if NORM:
            columns = k + tl.arange(0, B)[:, None] * C + tl.arange(0, C)[None, :]
            factor = tl.load(gain + columns, mask=columns < width, other=0.0)
            tile = (tile.to(tl.float32) * norm[None, :, None]).to(tile.dtype) * factor[:, None, :]
        w = _weights(stored, peak, code, tile.dtype, KIND, B, N, C)
        total = tl.dot(tile, w, total, input_precision="ieee")
        stored, peak = next_stored, next_peak
    let_next_start(EARLY)  # not sooner: its programs would take the place of this kernel's
    return tl.sum(total, 0)


@triton.jit
def _finish(total, scale, bias, columns, KIND: tl.constexpr, BIAS: tl.constexpr, dtype: tl.constexpr):
    """Return the product with INT8's row scales and the bias, rounded to the model's type."""
    if KIND == 1:
        total *= tl.load(scale + columns)[None, :] / 127.0
    if BIAS:
        total += tl.load(bias + columns)[None, :].to(tl.float32)
    return total.to(dtype)


@triton.jit
def _linear(
    x, x_stride, gain, epsilon, rows, width,
    w0, s0, b0, n0, w1, s1, b1, n1, w2, s2, b2, n2,
    code, out, out_stride, KIND: tl.constexpr, BIAS: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr,
    EARLY: tl.constexpr, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """out[:, n] (+)= norm(x) · Wᵀ for up to three matrices, whose outputs lie beside each other."""
    # Programs that share weights are neighbours, so that those are read once, however many rows there are.
    block = tl.program_id(1)
    weight, scale, bias, count, first = w0, s0, b0, n0, 0
    if block >= tl.cdiv(n0, N):
        block -= tl.cdiv(n0, N)
        weight, scale, bias, count, first = w1, s1, b1, n1, n0
        if block >= tl.cdiv(n1, N):
            block -= tl.cdiv(n1, N)
            weight, scale, bias, count, first = w2, s2, b2, n2, n0 + n1
    columns = block * N + tl.arange(0, N)
    loaded = tl.minimum(columns, count - 1)
    row = tl.program_id(0) * M + tl.arange(0, M)
    real = row < rows
    total = _product(
        x + row.to(tl.int64) * x_stride, gain, epsilon, width, real,
        weight + loaded.to(tl.int64) * _bytes(width, KIND), scale + loaded * (width // 64), code,
        KIND, NORM, EARLY, B, M, N, C, ONCE,
    )  # fmt: skip
    dtype: tl.constexpr = x.dtype.element_ty
    result = _finish(total, scale, bias, loaded, KIND, BIAS, dtype)
    mask = real[:, None] & (columns < count)[None, :]
    place = out + row[:, None].to(tl.int64) * out_stride + first + columns[None, :]
    if RESIDUAL:
        result = (tl.load(place, mask=mask, other=0.0).to(tl.float32) + result.to(tl.float32)).to(dtype)
    tl.store(place, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _bytes(width, KIND: tl.constexpr):
    """Return the stored elements of a row of weights."""
    if KIND == 2:
        return width // 2
    else:
        return width


@triton.jit
def _gated(
    x, x_stride, gain, epsilon, rows, width,
    w0, s0, b0, w1, s1, b1, count, code, out, KIND: tl.constexpr, BIAS: tl.constexpr,
    EARLY: tl.constexpr, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """out = silu(norm(x) · W0ᵀ) · (norm(x) · W1ᵀ)."""
    half: tl.constexpr = N // 2
    columns = tl.program_id(1) * half + tl.arange(0, half)
    loaded = tl.minimum(columns, count - 1)
    # One product: a tile's outputs are those of the gate, then the same ones of W1.
    both = tl.arange(0, N)
    own = tl.minimum(tl.program_id(1) * half + both % half, count - 1)
    offset = own.to(tl.int64) * _bytes(width, KIND)
    row = tl.program_id(0) * M + tl.arange(0, M)
    real = row < rows
    total = _product(
        x + row.to(tl.int64) * x_stride, gain, epsilon, width, real,
        tl.where(both < half, w0 + offset, w1 + offset),
        tl.where(both < half, s0 + own * (width // 64), s1 + own * (width // 64)), code,
        KIND, True, EARLY, B, M, N, C, ONCE,
    )  # fmt: skip
    gate, up = tl.split(tl.permute(tl.reshape(total, [M, 2, half]), (0, 2, 1)))
    dtype: tl.constexpr = x.dtype.element_ty
    gate = _finish(gate, s0, b0, loaded, KIND, BIAS, dtype).to(tl.float32)
    up = _finish(up, s1, b1, loaded, KIND, BIAS, dtype).to(tl.float32)
    active = (gate / (1 + tl.exp(-gate))).to(dtype).to(tl.float32)
    mask = real[:, None] & (columns < count)[None, :]
    tl.store(out + row[:, None].to(tl.int64) * count + columns[None, :], (active * up).to(dtype), mask=mask)


def linear(
    x: Tensor,
    matrices: tuple[Matrix, ...],
    out: Tensor,
    *,
    gain: Tensor | None = None,
    epsilon: float = 0.0,
    residual: bool = False,
    tile: Tiles | None = None,
) -> None:
    """Write `x · Wᵀ` of up to three matrices of one kind side by side into `out`, or with `residual` add it.

    Args:
        x: `[rows, inputs]`, rows may be apart.
        matrices: their outputs add up to `out`'s width.
        out: `[rows, outputs]`, rows may be apart.
        gain: `[inputs]` of the RMS norm before the product; None for no norm.
        epsilon: of the norm.
        residual: add to what `out` holds.
        tile: how to divide the work; chosen by size by default.
    """
    rows, width = x.shape
    kind = matrices[0].kind
    tile = tile or tiles(rows, sum(matrix.outputs for matrix in matrices), width, kind)
    padded = matrices + (matrices[0],) * (3 - len(matrices))
    parts: list[object] = []
    for number, matrix in enumerate(padded):
        count = matrix.outputs if number < len(matrices) else 0
        parts += [matrix.weight, matrix.scale, matrix.scale if matrix.bias is None else matrix.bias, count]
    blocks = sum(triton.cdiv(matrix.outputs, tile.n) for matrix in matrices)
    _linear[(triton.cdiv(rows, tile.m), blocks)](
        x, x.stride(0), x if gain is None else gain, epsilon, rows, width, *parts, matrices[0].code, out, out.stride(0),
        KIND=kind, BIAS=matrices[0].bias is not None, NORM=gain is not None, RESIDUAL=residual, EARLY=EARLY,
        B=tile.splits, M=tile.m, N=tile.n, C=tile.k, ONCE=width <= tile.k,
        num_warps=tile.warps, num_stages=1, launch_pdl=EARLY,
    )  # fmt: skip


def gated(
    x: Tensor, gate: Matrix, up: Matrix, out: Tensor, gain: Tensor, epsilon: float, tile: Tiles | None = None
) -> None:
    """Write `silu(n · Wgateᵀ) · (n · Wupᵀ)` into `out` `[rows, outputs]`, where n is the RMS norm of `x`.

    Arguments as of `linear`.
    """
    rows, width = x.shape
    tile = tile or tiles(rows, 2 * gate.outputs, width, gate.kind)
    biases = [matrix.scale if matrix.bias is None else matrix.bias for matrix in (gate, up)]
    _gated[(triton.cdiv(rows, tile.m), triton.cdiv(gate.outputs, tile.n // 2))](
        x, x.stride(0), gain, epsilon, rows, width, gate.weight, gate.scale, biases[0], up.weight, up.scale, biases[1],
        gate.outputs, gate.code, out, KIND=gate.kind, BIAS=gate.bias is not None, EARLY=EARLY,
        B=tile.splits, M=tile.m, N=tile.n, C=tile.k, ONCE=width <= tile.k,
        num_warps=tile.warps, num_stages=1, launch_pdl=EARLY,
    )  # fmt: skip


def float_matrix(weight: Tensor, bias: Tensor | None = None) -> Matrix:
    """Return a matrix of plain weights `[outputs, inputs]`."""
    nothing = weight.new_zeros(1, dtype=torch.float32)
    return Matrix(FLOAT, weight, nothing, nothing, bias, *weight.shape)
