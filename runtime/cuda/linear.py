"""Linear layers on few rows: weights in floating point, LLM.int8's or NF4's form are read once, as they are stored.

What stands beside a linear layer in a decoder is done in the same kernel: the norm before it, the residual after it,
the gate of the MLP.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from runtime.cuda.direct import direct_product
from runtime.cuda.few import few_product
from runtime.cuda.launch import EARLY
from runtime.cuda.many import many_product
from runtime.cuda.matrix import Matrix
from runtime.cuda.tiles import Tiles, tiles


@triton.jit
def _product(
    x, gain, epsilon, width, real, weight, scale, code, KIND: tl.constexpr, NORM: tl.constexpr, EARLY: tl.constexpr,
    B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, STAGES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Return norm(x) · Wᵀ, float32 `[M, N]`: `x` `[M]`, `weight` and `scale` `[N]` point at rows' first elements."""
    if B == 0:
        return few_product(x, gain, epsilon, width, real, weight, scale, code, KIND, NORM, EARLY, M, N, C, PIECES == 1)
    else:
        return many_product(x, gain, epsilon, width, real, weight, scale, code, KIND, NORM, EARLY, B, M, N, C, STAGES)


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
    EARLY: tl.constexpr, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, STAGES: tl.constexpr,
    PIECES: tl.constexpr,
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
    if STAGES == 0:
        total, _ = direct_product(
            x, x_stride, tl.program_id(0) * M, rows, gain, epsilon, width, weight, scale, weight, scale, block * N,
            count, code, KIND, NORM, False, EARLY, B, M, N, C, PIECES,
        )  # fmt: skip
    else:
        total = _product(
            x + row.to(tl.int64) * x_stride, gain, epsilon, width, real,
            weight + loaded.to(tl.int64) * _bytes(width, KIND), scale + loaded * (width // 64), code,
            KIND, NORM, EARLY, B, M, N, C, STAGES, PIECES,
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
    w0, s0, b0, w1, s1, b1, count, code, out, KIND: tl.constexpr, BIAS: tl.constexpr, ALIGNED: tl.constexpr,
    EARLY: tl.constexpr, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, C: tl.constexpr, STAGES: tl.constexpr,
    PIECES: tl.constexpr,
):  # fmt: skip
    """out = silu(norm(x) · W0ᵀ) · (norm(x) · W1ᵀ)."""
    half: tl.constexpr = N if STAGES == 0 else N // 2
    columns = tl.program_id(1) * half + tl.arange(0, half)
    loaded = tl.minimum(columns, count - 1)
    row = tl.program_id(0) * M + tl.arange(0, M)
    real = row < rows
    if STAGES == 0:
        gate, up = direct_product(
            x, x_stride, tl.program_id(0) * M, rows, gain, epsilon, width, w0, s0, w1, s1, tl.program_id(1) * N,
            count, code, KIND, True, True, EARLY, B, M, N, C, PIECES,
        )  # fmt: skip
    else:
        # One product: a tile's outputs are those of the gate, then the same ones of W1.
        both = tl.arange(0, N)
        own = tl.minimum(tl.program_id(1) * half + both % half, count - 1)
        offset = own.to(tl.int64) * _bytes(width, KIND)
        weight = tl.where(both < half, w0 + offset, w1 + offset)
        if ALIGNED:  # newer releases of Triton do not see it through `tl.where`, and would load two bytes at a time
            weight = tl.multiple_of(weight, 16)
        total = _product(
            x + row.to(tl.int64) * x_stride, gain, epsilon, width, real, weight,
            tl.where(both < half, s0 + own * (width // 64), s1 + own * (width // 64)), code,
            KIND, True, EARLY, B, M, N, C, STAGES, PIECES,
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
    tile = tile or tiles(
        rows, sum(matrix.outputs for matrix in matrices), width, kind, gain is not None, x.element_size()
    )
    padded = matrices + (matrices[0],) * (3 - len(matrices))
    parts: list[object] = []
    for number, matrix in enumerate(padded):
        count = matrix.outputs if number < len(matrices) else 0
        parts += [matrix.weight, matrix.scale, matrix.scale if matrix.bias is None else matrix.bias, count]
    blocks = sum(triton.cdiv(matrix.outputs, tile.n) for matrix in matrices)
    _linear[(triton.cdiv(rows, tile.m), blocks)](
        x, x.stride(0), x if gain is None else gain, epsilon, rows, width, *parts, matrices[0].code, out, out.stride(0),
        KIND=kind, BIAS=matrices[0].bias is not None, NORM=gain is not None, RESIDUAL=residual, EARLY=EARLY,
        B=tile.splits, M=tile.m, N=tile.n, C=tile.k, STAGES=tile.stages, PIECES=tile.pieces(width),
        num_warps=tile.warps, num_stages=1, launch_pdl=EARLY,
    )  # fmt: skip


def gated(
    x: Tensor, gate: Matrix, up: Matrix, out: Tensor, gain: Tensor, epsilon: float, tile: Tiles | None = None
) -> None:
    """Write `silu(n · Wgateᵀ) · (n · Wupᵀ)` into `out` `[rows, outputs]`, where n is the RMS norm of `x`.

    Arguments as of `linear`.
    """
    rows, width = x.shape
    tile = tile or tiles(rows, 2 * gate.outputs, width, gate.kind, norm=True, itemsize=x.element_size())
    biases = [matrix.scale if matrix.bias is None else matrix.bias for matrix in (gate, up)]
    _gated[(triton.cdiv(rows, tile.m), triton.cdiv(gate.outputs, tile.n if tile.direct else tile.n // 2))](
        x, x.stride(0), gain, epsilon, rows, width, gate.weight, gate.scale, biases[0], up.weight, up.scale, biases[1],
        gate.outputs, gate.code, out, KIND=gate.kind, BIAS=gate.bias is not None,
        ALIGNED=gate.aligned and up.aligned, EARLY=EARLY,
        B=tile.splits, M=tile.m, N=tile.n, C=tile.k, STAGES=tile.stages, PIECES=tile.pieces(width),
        num_warps=tile.warps, num_stages=1, launch_pdl=EARLY,
    )  # fmt: skip
