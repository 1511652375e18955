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

FLOAT, INT8, NF4 = 0, 1, 2
PROCESSORS = 132
"""Of an H200."""
NF4_BLOCK = 64
"""Weights that share a scale in NF4."""


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
    """How a kernel divides a product: rows, outputs and inputs of a tile, warps, and stages of its pipeline."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


def tiles(rows: int, outputs: int, inputs: int, kind: int) -> Tiles:
    """Return how to divide such a product: up to 64 rows, as was fastest on an H200.

    With more rows (many texts side by side) arithmetic counts, too: tiles as wide as leave one to every processor.
    """
    if rows > 64:
        blocks = triton.cdiv(rows, 64)
        n = next((n for n in (64, 32) if blocks * triton.cdiv(outputs, n) >= PROCESSORS), 16)
        return Tiles(64, n, 64, warps=4, stages=4)
    m = max(triton.next_power_of_2(rows), 16)
    n = 16 if outputs <= 4096 else 32 if outputs <= 16384 else 64
    k = 128 if inputs >= 128 else max(triton.next_power_of_2(inputs), 32)
    if inputs > 1024 and m <= 32:
        k = 256
    if kind == NF4:
        k = max(k, 64)
    return Tiles(m, n, k, warps=4, stages=4 if k <= 128 else 3)


@triton.jit
def _inputs(x, gain, scale, columns, width, real, NORM: tl.constexpr):
    """Load a tile of rows; with NORM, as the RMS norm leaves it. `x` `[m, 1]` points at the rows' first elements."""
    inside = columns < width
    tile = tl.load(x + columns[None, :], mask=real[:, None] & inside[None, :], other=0.0)
    if NORM:
        weight = tl.load(gain + columns, mask=inside, other=0.0)
        tile = (tile.to(tl.float32) * scale[:, None]).to(tile.dtype) * weight[None, :]
    return tile


@triton.jit
def _dot(total, even, odd, weight, scale, code, rows, k, width, KIND: tl.constexpr, K: tl.constexpr):
    """Add the product of an input tile and the weights of `rows` at inputs k … k + K."""
    if KIND == 2:  # NF4: byte j holds the weights 2j and 2j + 1
        bytes_ = k // 2 + tl.arange(0, K // 2)
        inside = (bytes_ < width // 2)[None, :]
        packed = tl.load(weight + rows[:, None].to(tl.int64) * (width // 2) + bytes_[None, :], mask=inside, other=0)
        blocks = rows[:, None] * (width // 64) + bytes_[None, :] // 32
        peak = tl.load(scale + blocks, mask=inside, other=0.0)
        high = (tl.load(code + (packed >> 4).to(tl.int32)) * peak).to(even.dtype)
        low = (tl.load(code + (packed & 15).to(tl.int32)) * peak).to(even.dtype)
        total = tl.dot(even, tl.trans(high), total, input_precision="ieee")
        return tl.dot(odd, tl.trans(low), total, input_precision="ieee")
    else:
        columns = k + tl.arange(0, K)
        at = weight + rows[:, None].to(tl.int64) * width + columns[None, :]
        tile = tl.load(at, mask=(columns < width)[None, :], other=0)
        return tl.dot(even, tl.trans(tile.to(even.dtype)), total, input_precision="ieee")


@triton.jit
def _norm_scale(x, width, real, epsilon, M: tl.constexpr, K: tl.constexpr):
    """Return 1 / rms of each row, float32 `[M]`."""
    total = tl.zeros([M, K], tl.float32)
    for k in range(0, width, K):
        columns = k + tl.arange(0, K)
        mask = real[:, None] & (columns < width)[None, :]
        tile = tl.load(x + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tile * tile
    return tl.rsqrt(tl.sum(total, 1) / width + epsilon)


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
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
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
    at = x + row[:, None].to(tl.int64) * x_stride
    norm = _norm_scale(at, width, real, epsilon, M, K) if NORM else tl.zeros([M], tl.float32)
    total = tl.zeros([M, N], tl.float32)
    for k in range(0, width, K):
        if KIND == 2:
            halves = k + 2 * tl.arange(0, K // 2)
            even = _inputs(at, gain, norm, halves, width, real, NORM)
            odd = _inputs(at, gain, norm, halves + 1, width, real, NORM)
        else:
            even = _inputs(at, gain, norm, k + tl.arange(0, K), width, real, NORM)
            odd = even
        total = _dot(total, even, odd, weight, scale, code, loaded, k, width, KIND, K)
    dtype: tl.constexpr = x.dtype.element_ty
    result = _finish(total, scale, bias, loaded, KIND, BIAS, dtype)
    mask = real[:, None] & (columns < count)[None, :]
    place = out + row[:, None].to(tl.int64) * out_stride + first + columns[None, :]
    if RESIDUAL:
        result = (tl.load(place, mask=mask, other=0.0).to(tl.float32) + result.to(tl.float32)).to(dtype)
    tl.store(place, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _gated(
    x, x_stride, gain, epsilon, rows, width,
    w0, s0, b0, w1, s1, b1, count, code, out, KIND: tl.constexpr, BIAS: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """out = silu(norm(x) · W0ᵀ) · (norm(x) · W1ᵀ)."""
    columns = tl.program_id(1) * N + tl.arange(0, N)
    loaded = tl.minimum(columns, count - 1)
    row = tl.program_id(0) * M + tl.arange(0, M)
    real = row < rows
    at = x + row[:, None].to(tl.int64) * x_stride
    norm = _norm_scale(at, width, real, epsilon, M, K)
    gate = tl.zeros([M, N], tl.float32)
    up = tl.zeros([M, N], tl.float32)
    for k in range(0, width, K):
        if KIND == 2:
            halves = k + 2 * tl.arange(0, K // 2)
            even = _inputs(at, gain, norm, halves, width, real, True)
            odd = _inputs(at, gain, norm, halves + 1, width, real, True)
        else:
            even = _inputs(at, gain, norm, k + tl.arange(0, K), width, real, True)
            odd = even
        gate = _dot(gate, even, odd, w0, s0, code, loaded, k, width, KIND, K)
        up = _dot(up, even, odd, w1, s1, code, loaded, k, width, KIND, K)
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
        KIND=kind, BIAS=matrices[0].bias is not None, NORM=gain is not None, RESIDUAL=residual,
        M=tile.m, N=tile.n, K=tile.k, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def gated(
    x: Tensor, gate: Matrix, up: Matrix, out: Tensor, gain: Tensor, epsilon: float, tile: Tiles | None = None
) -> None:
    """Write `silu(n · Wgateᵀ) · (n · Wupᵀ)` into `out` `[rows, outputs]`, where n is the RMS norm of `x`.

    Arguments as of `linear`.
    """
    rows, width = x.shape
    tile = tile or tiles(rows, gate.outputs, width, gate.kind)
    biases = [matrix.scale if matrix.bias is None else matrix.bias for matrix in (gate, up)]
    _gated[(triton.cdiv(rows, tile.m), triton.cdiv(gate.outputs, tile.n))](
        x, x.stride(0), gain, epsilon, rows, width, gate.weight, gate.scale, biases[0], up.weight, up.scale, biases[1],
        gate.outputs, gate.code, out, KIND=gate.kind, BIAS=gate.bias is not None,
        M=tile.m, N=tile.n, K=tile.k, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def float_matrix(weight: Tensor, bias: Tensor | None = None) -> Matrix:
    """Return a matrix of plain weights `[outputs, inputs]`."""
    nothing = weight.new_zeros(1, dtype=torch.float32)
    return Matrix(FLOAT, weight, nothing, nothing, bias, *weight.shape)
