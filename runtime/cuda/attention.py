"""Attention of a few new tokens over a static cache: rotation, cache write and softmax in one kernel."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from runtime.cuda.launch import EARLY, let_next_start, wait_for_last
from runtime.cuda.tokens import depth_of

LEAST = -1.0e30
"""Score of what a token may not see. Finite, so that differences are."""
BLOCK_CACHED = 64
"""Cached positions of a tile."""
BLOCK_NEW = 16
"""New positions of a tile."""
MOST_ROWS = 64
"""Rows (query heads times tokens) of a tile."""


@triton.jit
def _rotated(first, second, cos, sin, dtype: tl.constexpr):
    """Rotate halves by their positions' angles (Su 2021, in the half-split form of Llama)."""
    first, second = first.to(tl.float32), second.to(tl.float32)
    return (first * cos - second * sin).to(dtype), (second * cos + first * sin).to(dtype)


@triton.jit
def _attended(q1, q2, k1, k2, v1, v2, visible, scale, peak, total, sum1, sum2):
    """Take a tile of keys and values into a running softmax (Milakov & Gimelshein 2018)."""
    scores = tl.dot(q1, tl.trans(k1), input_precision="ieee") + tl.dot(q2, tl.trans(k2), input_precision="ieee")
    scores = tl.where(visible, scores * scale, -1.0e30)
    highest = tl.maximum(peak, tl.max(scores, 1))
    weights = tl.where(visible, tl.exp(scores - highest[:, None]), 0.0)
    fade = tl.exp(peak - highest)
    total = total * fade + tl.sum(weights, 1)
    weights = weights.to(v1.dtype)
    sum1 = tl.dot(weights, v1, sum1 * fade[:, None], input_precision="ieee")
    sum2 = tl.dot(weights, v2, sum2 * fade[:, None], input_precision="ieee")
    return highest, total, sum1, sum2


@triton.jit
def _attend(
    qkv, cos, sin, keys, values, places, starts, offset, width, depths, capacity, scale, out, parts, arrived,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr,
    CACHED: tl.constexpr, NEW: tl.constexpr, SPLITS: tl.constexpr, SPARES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One key-value head of one text, one block of its query rows, one share of the cached positions.

    The last share is the new tokens themselves, which that program also writes to the cache.
    """
    let_next_start(EARLY)
    batch, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    share = tl.program_id(2)
    dtype: tl.constexpr = qkv.dtype.element_ty
    start = tl.load(starts + batch) + offset
    token_stride = (KV_HEADS * GROUP + 2 * KV_HEADS) * DIM
    half = tl.arange(0, HALF)
    in_half = (half < DIM // 2)[None, :]

    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)  # row = query head in the group · width + token
    real = row < GROUP * width
    token = row % width
    mask = real[:, None] & in_half
    heads = head * GROUP + row // width
    at = qkv + (batch * width + token)[:, None].to(tl.int64) * token_stride + heads[:, None] * DIM + half[None, :]
    cache = (tl.load(places + batch) * KV_HEADS + head).to(tl.int64) * capacity * DIM
    depth, key_depth = token, tl.arange(0, NEW)
    if SPARES:  # written before any product of the call, and none lets the next kernel start before it has waited
        all_depths = tl.load(depths + batch)
        depth, key_depth = depth_of(all_depths, token), depth_of(all_depths, key_depth % 8)
    angle = tl.minimum(tl.maximum(start + depth, 0), capacity - 1)[:, None] * (DIM // 2) + half[None, :]
    turn1, turn2 = tl.load(cos + angle, mask=mask, other=0.0), tl.load(sin + angle, mask=mask, other=0.0)
    wait_for_last(EARLY)  # what is loaded above stays as it is during a forward pass
    q1, q2 = _rotated(
        tl.load(at, mask=mask, other=0.0), tl.load(at + DIM // 2, mask=mask, other=0.0), turn1, turn2, dtype
    )

    peak = tl.full([ROWS], -1.0e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sum1 = tl.zeros([ROWS, HALF], tl.float32)
    sum2 = tl.zeros([ROWS, HALF], tl.float32)
    chunk = tl.cdiv(tl.cdiv(start, SPLITS - 1), CACHED) * CACHED
    last = tl.minimum((share + 1) * chunk, tl.minimum(start, capacity))
    for position in range(share * chunk, last, CACHED):
        positions = position + tl.arange(0, CACHED)
        inside = positions < last
        place = cache + positions[:, None] * DIM + half[None, :]
        stored = inside[:, None] & in_half
        peak, total, sum1, sum2 = _attended(
            q1, q2,
            tl.load(keys + place, mask=stored, other=0.0), tl.load(keys + place + DIM // 2, mask=stored, other=0.0),
            tl.load(values + place, mask=stored, other=0.0), tl.load(values + place + DIM // 2, mask=stored, other=0.0),
            inside[None, :] & real[:, None], scale, peak, total, sum1, sum2,
        )  # fmt: skip

    if share == SPLITS - 1:
        for first in range(0, width, NEW):
            new = first + tl.arange(0, NEW)
            given = (new < width)[:, None] & in_half
            source = qkv + (batch * width + new)[:, None].to(tl.int64) * token_stride + half[None, :]
            source += (KV_HEADS * GROUP + head) * DIM
            key = tl.minimum(tl.maximum(start + first + key_depth, 0), capacity - 1)
            turn = key[:, None] * (DIM // 2) + half[None, :]
            k1, k2 = _rotated(
                tl.load(source, mask=given, other=0.0), tl.load(source + DIM // 2, mask=given, other=0.0),
                tl.load(cos + turn, mask=given, other=0.0), tl.load(sin + turn, mask=given, other=0.0), dtype,
            )  # fmt: skip
            source += KV_HEADS * DIM
            v1, v2 = tl.load(source, mask=given, other=0.0), tl.load(source + DIM // 2, mask=given, other=0.0)
            if tl.program_id(1) == 0:
                spot = cache + (start + new)[:, None] * DIM + half[None, :]
                kept = given & ((start + new >= 0) & (start + new < capacity))[:, None]
                tl.store(keys + spot, k1, mask=kept)
                tl.store(keys + spot + DIM // 2, k2, mask=kept)
                tl.store(values + spot, v1, mask=kept)
                tl.store(values + spot + DIM // 2, v2, mask=kept)
            before = new[None, :] <= token[:, None]
            if SPARES:
                before = (new[None, :] < depth[:, None]) | (new[None, :] == token[:, None])
            visible = before & ((new < width) & (start + new >= 0))[None, :] & real[:, None]
            peak, total, sum1, sum2 = _attended(q1, q2, k1, k2, v1, v2, visible, scale, peak, total, sum1, sum2)

    # A row that sees nothing (padding, a place before the text's first) is left at 0.
    place = out + (batch * width + token)[:, None].to(tl.int64) * (KV_HEADS * GROUP * DIM)
    place += heads[:, None] * DIM + half[None, :]
    # The last program to arrive adds up the shares, in their order, so that the sum is the same every time.
    block = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    size: tl.constexpr = ROWS * (2 * HALF + 2)
    own = parts + (block * SPLITS + share).to(tl.int64) * size
    rows = tl.arange(0, ROWS)
    tile = rows[:, None] * HALF + half[None, :]
    tl.store(own + rows, peak)
    tl.store(own + ROWS + rows, total)
    tl.store(own + 2 * ROWS + tile, sum1)
    tl.store(own + 2 * ROWS + ROWS * HALF + tile, sum2)
    tl.debug_barrier()
    before = tl.atomic_add(arrived + block, 1)
    if before == SPLITS - 1:
        # All at once if they are few: their loads need not wait for each other, but code and registers grow with them.
        AT_ONCE: tl.constexpr = SPLITS if SPLITS <= 17 else 8
        base = parts + (block * SPLITS).to(tl.int64) * size
        peak = tl.full([ROWS], -1.0e30, tl.float32)
        for other in tl.range(0, SPLITS, loop_unroll_factor=AT_ONCE):
            peak = tl.maximum(peak, tl.load(base + other * size + rows, cache_modifier=".cg"))
        total = tl.zeros([ROWS], tl.float32)
        sum1 = tl.zeros([ROWS, HALF], tl.float32)
        sum2 = tl.zeros([ROWS, HALF], tl.float32)
        for other in tl.range(0, SPLITS, loop_unroll_factor=AT_ONCE):
            part = base + other * size
            fade = tl.exp(tl.load(part + rows, cache_modifier=".cg") - peak)
            total += fade * tl.load(part + ROWS + rows, cache_modifier=".cg")
            sum1 += fade[:, None] * tl.load(part + 2 * ROWS + tile, cache_modifier=".cg")
            sum2 += fade[:, None] * tl.load(part + 2 * ROWS + ROWS * HALF + tile, cache_modifier=".cg")
        tl.store(place, (sum1 / tl.maximum(total, 1e-30)[:, None]).to(dtype), mask=mask)
        tl.store(place + DIM // 2, (sum2 / tl.maximum(total, 1e-30)[:, None]).to(dtype), mask=mask)
        tl.store(arrived + block, 0)


def attend(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: Tensor,
    starts: Tensor,
    offset: int,
    width: int,
    scale: float,
    out: Tensor,
    parts: Tensor,
    arrived: Tensor,
    splits: int,
    depths: Tensor | None = None,
) -> None:
    """Attend from `width` new tokens a text to those cached before them and to each other, and cache them.

    Args:
        qkv: `[texts · width, (heads + 2 · kv_heads) · dim]`, unrotated queries, keys and values beside each other.
        cos: float32 `[capacity, dim / 2]`.
        sin: likewise.
        keys: the cache, `[rows, kv_heads, capacity, dim]`, rotated.
        values: likewise.
        rows: int32 `[texts]`, each text's row of the cache.
        starts: int32 `[texts]`; the new tokens' positions are `starts[b] + offset + i`. Those outside the cache are not
            kept, and what becomes of them means nothing.
        offset: see `starts`.
        width: new tokens of each text.
        scale: of the scores.
        out: `[texts · width, heads · dim]`.
        parts: float32 scratch, see `scratch`.
        arrived: int32 scratch of zeros, left at zero.
        splits: programs that share a text's cached positions, and one for the new tokens: 2 at least.
        depths: int32 `[texts]`, of at most eight new tokens (`Spares`): the position of one is `starts[b] + offset` and
            its depth instead, it sees the new tokens before the number of its depth and itself, and is cached where it
            would be otherwise.
    """
    texts, (_, kv_heads, capacity, dim) = len(rows), keys.shape
    group = out.shape[1] // dim // kv_heads
    tile = min(max(triton.next_power_of_2(group * width), 16), MOST_ROWS)
    _attend[(texts * kv_heads, triton.cdiv(group * width, tile), splits)](
        qkv, cos, sin, keys, values, rows, starts, offset, width, starts if depths is None else depths,
        capacity, scale, out, parts, arrived,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim, HALF=max(triton.next_power_of_2(dim // 2), 16), ROWS=tile,
        CACHED=BLOCK_CACHED, NEW=BLOCK_NEW, SPLITS=splits, SPARES=depths is not None, EARLY=EARLY,
        num_warps=4, num_stages=2, launch_pdl=EARLY,
    )  # fmt: skip


def scratch(texts: int, kv_heads: int, group: int, dim: int, widest: int, splits: int) -> tuple[int, int]:
    """Return the elements of `parts` and of `arrived` that calls of up to `widest` tokens need."""
    half = max(triton.next_power_of_2(dim // 2), 16)
    rows = triton.next_power_of_2(max(group * widest, 16))
    rows = max(rows, triton.cdiv(group * widest, MOST_ROWS) * MOST_ROWS)
    return texts * kv_heads * rows * splits * (2 * half + 2), texts * kv_heads * max(rows // 16, 1)
