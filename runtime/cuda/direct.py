"""Products on a GPU's tensor cores whose operands go from memory to registers alone.

Tensor cores multiply 16 inputs at a time, of which each thread of a warp holds four: four threads share a row, eight
rows share a warp. A sum does not mind the order of what it adds. So a thread loads eight neighbouring inputs of its row
at a time, and the inputs are numbered anew in both operands, such that what a thread has loaded is what it has to hold.
Then nothing moves between threads before the end.

A tile of R rows is loaded as `[R · B · S, 32]`, where each place holds one stretch of 32 inputs of one row: eight rows,
then B warps, then S stretches, then the other rows. So a warp's threads hold eight rows, in fours.
"""

from __future__ import annotations

import triton
import triton.language as tl

from runtime.cuda.few import as_numbers
from runtime.cuda.launch import let_next_start, wait_for_last


@triton.jit
def _row_of(R: tl.constexpr, B: tl.constexpr, S: tl.constexpr):
    """Return each place's row, `[R · B · S, 1]`."""
    place = tl.arange(0, R * B * S)
    return (place // (8 * B * S) * 8 + place % 8)[:, None]


@triton.jit
def _warp_of(R: tl.constexpr, B: tl.constexpr, S: tl.constexpr):
    """Return each place's warp, `[R · B · S, 1]`."""
    return (tl.arange(0, R * B * S) // 8 % B)[:, None]


@triton.jit
def _stretch_of(R: tl.constexpr, B: tl.constexpr, S: tl.constexpr):
    """Return the number of each place's stretch, `[R · B · S, 1]`."""
    return (tl.arange(0, R * B * S) // (8 * B) % S)[:, None]


@triton.jit
def _inside(EACH: tl.constexpr):
    """Return 0 … 4 · EACH, `[1, 4 · EACH]`: EACH neighbours for each of four threads.

    Written so that Triton sees no longer run, which it would give to one thread.
    """
    at = tl.arange(0, 4 * EACH)
    return (at // EACH * EACH + at % EACH)[None, :]


@triton.jit
def _operand(tile, HELD: tl.constexpr, R: tl.constexpr, B: tl.constexpr, S: tl.constexpr, P: tl.constexpr):
    """Return a loaded tile as an operand, `[S / P · B, R, P · 32]`: P stretches of a warp are multiplied together.

    A thread holds HELD neighbours of the inputs as they are numbered anew: two, or four where one of the operands comes
    of less than 16 bits a number, in both.
    """
    parts = tl.reshape(tile, [R // 8, S // P, P, B, 8, 4, 8 // HELD, HELD])
    return tl.reshape(tl.permute(parts, (1, 3, 0, 4, 2, 6, 5, 7)), [S // P * B, R, P * 32])


@triton.jit
def _first_inputs(R: tl.constexpr, B: tl.constexpr, S: tl.constexpr, P: tl.constexpr):
    """Return the first input of each place, `[R · B · S, 1]`: warps share the inputs, P stretches are neighbours."""
    stretch = _stretch_of(R, B, S)
    return ((stretch // P * B + _warp_of(R, B, S)) * P + stretch % P) * 32


@triton.jit
def _stored(
    weight, scale, output, outputs, k, width, KIND: tl.constexpr, B: tl.constexpr, N: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr,
):  # fmt: skip
    """Load the weights of outputs `output` … + N at inputs k … + 32 · B · S as they are stored, and NF4's scales beside
    them, `[S / P · B, N]`."""
    row, first = tl.minimum(output + _row_of(N, B, S), outputs - 1).to(tl.int64), k + _first_inputs(N, B, S, P)
    if KIND == 2:  # a part is one block of 64 weights, which share a scale
        tl.static_assert(P == 2)
        packed = tl.load(weight + row * (width // 2) + first // 2 + _inside(4), mask=first < width, other=0)
        own = tl.minimum(output + tl.arange(0, N), outputs - 1)[None, :] * (width // 64)
        blocks = k // 64 + tl.arange(0, S // 2 * B)[:, None]
        return packed, tl.load(scale + own + blocks, mask=blocks < width // 64, other=0.0)
    else:
        columns = first + _inside(8)
        tile = tl.load(weight + row * width + columns, mask=columns < width, other=0)
        return tile, tile


@triton.jit
def _weights(
    stored, code, dtype: tl.constexpr, KIND: tl.constexpr, B: tl.constexpr, N: tl.constexpr, S: tl.constexpr,
    P: tl.constexpr,
):  # fmt: skip
    """Return what `_stored` loaded as an operand, without scales."""
    tile = tl.reshape(as_numbers(stored, code, dtype, KIND), [N * B * S, 32])
    return _operand(tile, 4 if KIND else 2, N, B, S, P)


@triton.jit
def _multiplied(weights, peak, inputs, total, KIND: tl.constexpr, M: tl.constexpr):
    """Add the parts' products to `total`: `[parts, N, M]` if M is 8, else `[parts, M, N]`.

    Of tensor cores' operands the first has 16 rows, the second eight. NF4's scales scale their blocks' sums.
    """
    if M == 8:
        if KIND == 2:
            total += tl.dot(weights, tl.permute(inputs, (0, 2, 1)), input_precision="ieee") * peak[:, :, None]
        else:
            total = tl.dot(weights, tl.permute(inputs, (0, 2, 1)), total, input_precision="ieee")
    else:
        if KIND == 2:
            total += tl.dot(inputs, tl.permute(weights, (0, 2, 1)), input_precision="ieee") * peak[:, None, :]
        else:
            total = tl.dot(inputs, tl.permute(weights, (0, 2, 1)), total, input_precision="ieee")
    return total


@triton.jit
def _summed(total, M: tl.constexpr):
    """Return the sum of all parts, `[M, N]`."""
    product = tl.sum(total, 0)
    return tl.trans(product) if M == 8 else product


@triton.jit
def _inputs(
    x, x_stride, row, rows, first, width, B: tl.constexpr, M: tl.constexpr, S: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """Load inputs `first` … + 32 · B · S of rows `row` … + M."""
    own, columns = row + _row_of(M, B, S), first + _first_inputs(M, B, S, P) + _inside(8)
    return tl.load(x + own.to(tl.int64) * x_stride + columns, mask=(own < rows) & (columns < width), other=0.0)


@triton.jit
def _of_rows(values, B: tl.constexpr, M: tl.constexpr, S: tl.constexpr):
    """Return the sum of each row's values in a tile `[M · B · S, 32]`, `[M / 8, 8]`."""
    return tl.sum(tl.reshape(tl.sum(values, 1), [M // 8, B * S, 8]), 1)


@triton.jit
def _normed(tile, factor, norm, B: tl.constexpr, M: tl.constexpr, S: tl.constexpr):
    """Return a tile of inputs, scaled by each row's `norm` `[M / 8, 8]` and by the gains."""
    each = tl.broadcast_to(norm[:, None, :], [M // 8, B * S, 8])
    return (tile.to(tl.float32) * tl.reshape(each, [M * B * S, 1])).to(tile.dtype) * factor


@triton.jit
def direct_product(
    x, x_stride, row, rows, gain, epsilon, width, w0, s0, w1, s1, output, outputs, code,
    KIND: tl.constexpr, NORM: tl.constexpr, TWO: tl.constexpr, EARLY: tl.constexpr, B: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, C: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Return norm(x) · W0ᵀ and, if `TWO`, norm(x) · W1ᵀ, float32 `[M, N]`: rows `row` … + M, outputs `output` … + N.

    All inputs are loaded at once, as `PIECES` tiles of B · C: the weights while the kernel that writes x may still run,
    and x a single time.
    """
    S: tl.constexpr = C // 32
    P: tl.constexpr = 2 if KIND == 2 else S
    first: tl.tuple = ()
    second: tl.tuple = ()
    gains: tl.tuple = ()
    tiles: tl.tuple = ()
    for i in tl.static_range(PIECES):
        first = first + (_stored(w0, s0, output, outputs, i * B * C, width, KIND, B, N, S, P),)
        if TWO:
            second = second + (_stored(w1, s1, output, outputs, i * B * C, width, KIND, B, N, S, P),)
        if NORM:
            columns = i * B * C + _first_inputs(M, B, S, P) + _inside(8)
            gains = gains + (tl.load(gain + columns, mask=columns < width, other=0.0),)
    wait_for_last(EARLY)
    for i in tl.static_range(PIECES):
        tiles = tiles + (_inputs(x, x_stride, row, rows, i * B * C, width, B, M, S, P),)
    if NORM:
        squares = tl.zeros([M * B * S, 32], tl.float32)
        for i in tl.static_range(PIECES):
            whole = tiles[i].to(tl.float32)
            squares += whole * whole
        norm = tl.rsqrt(_of_rows(squares, B, M, S) / width + epsilon)
    total = tl.zeros([S // P * B, N, M] if M == 8 else [S // P * B, M, N], tl.float32)
    other = total
    for i in tl.static_range(PIECES):
        tile = _normed(tiles[i], gains[i], norm, B, M, S) if NORM else tiles[i]
        inputs = _operand(tile, 4 if KIND else 2, M, B, S, P)
        stored, peak = first[i]
        total = _multiplied(_weights(stored, code, x.dtype.element_ty, KIND, B, N, S, P), peak, inputs, total, KIND, M)
        if TWO:
            stored, peak = second[i]
            other = _multiplied(
                _weights(stored, code, x.dtype.element_ty, KIND, B, N, S, P), peak, inputs, other, KIND, M
            )
    let_next_start(EARLY)  # not sooner: its programs would take the place of this kernel's
    return _summed(total, M), _summed(other, M)
