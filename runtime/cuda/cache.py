"""Moving what is cached of a token to another place of its text."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from runtime.cuda.launch import EARLY, let_next_start, wait_for_last


@triton.jit
def _move(
    keys, values, moves, texts, capacity,
    KV_HEADS: tl.constexpr, HEADS_TILE: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_next_start(EARLY)
    wait_for_last(EARLY)
    layer, batch = tl.program_id(0), tl.program_id(1)
    source, place = tl.load(moves + batch * 2), tl.load(moves + batch * 2 + 1)
    if source >= 0:
        head, column = tl.arange(0, HEADS_TILE)[:, None], tl.arange(0, DIM_TILE)[None, :]
        inside = (head < KV_HEADS) & (column < DIM)
        heads = ((layer * texts + batch) * KV_HEADS + head).to(tl.int64) * capacity
        old, new = (heads + source) * DIM + column, (heads + place) * DIM + column
        tl.store(keys + new, tl.load(keys + old, mask=inside), mask=inside)
        tl.store(values + new, tl.load(values + old, mask=inside), mask=inside)


def move(keys: Tensor, values: Tensor, moves: Tensor) -> None:
    """Copy a token's keys and values of all layers to another place, where they are to be moved.

    Args:
        keys: `[layers, texts, kv_heads, capacity, dim]`.
        values: likewise.
        moves: int32 `[texts, 2]`, from and to; -1 as the first: nothing.
    """
    layers, texts, kv_heads, capacity, dim = keys.shape
    _move[(layers, texts)](
        keys, values, moves, texts, capacity, KV_HEADS=kv_heads, HEADS_TILE=triton.next_power_of_2(kv_heads),
        DIM=dim, DIM_TILE=triton.next_power_of_2(dim), EARLY=EARLY, launch_pdl=EARLY,
    )  # fmt: skip
