"""Tokens on the device: embedding them, reading them off logits with their signals, accepting and committing them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from runtime.cuda.launch import EARLY, let_next_start, wait_for_last

CHUNK = 2048
"""Logits that one program reads."""
SIGNALS = 5
"""Entropy in bits, top-1 and top-2 probability, the likeliest token, and ln Σ exp(logit), of one distribution."""
TOLD = 5
"""What the host is told: the first four of them, and whether the policy will go on (1 or 0; NaN: ask it)."""
RESULT = 6
"""Of a step: accepted tokens, the last token, what `verified_signals` says of its distribution, and the spare between
them, -1 where none stands."""


@triton.jit
def depth_of(depths, number):
    """Return the depth of a text's new token; see `Spares`."""
    return (depths >> (4 * number)) & 15


@triton.jit
def _take(given, taken, count, COUNT: tl.constexpr, EARLY: tl.constexpr):
    """Copy numbers from the host in one read: each takes long, and every warp that wants a number reads it."""
    let_next_start(EARLY)
    at = tl.arange(0, COUNT)
    numbers = tl.load(given + at, mask=at < count, volatile=True)
    wait_for_last(EARLY)
    tl.store(taken + at, numbers, mask=at < count)


@triton.jit
def _embed(
    text, seconds, capacity, rows, starts, offset, width, depths, table, size, out,
    SIZE: tl.constexpr, SPARES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_next_start(EARLY)
    wait_for_last(EARLY)
    row = tl.program_id(0)
    batch, at = row // width, row % width
    position = tl.load(starts + batch) + offset + at
    if SPARES:
        depth = depth_of(tl.load(depths + batch), at)
        position += depth - at
    spot = tl.load(rows + batch).to(tl.int64) * capacity + tl.minimum(tl.maximum(position, 0), capacity - 1)
    token = tl.load(text + spot).to(tl.int64)
    if SPARES:
        token = tl.where(depth < at, tl.load(seconds + spot).to(tl.int64), token)
    columns = tl.arange(0, SIZE)
    inside = columns < size
    tl.store(out + row * size + columns, tl.load(table + token * size + columns, mask=inside), mask=inside)


@triton.jit
def store_four(to, first, second, third, fourth):
    """Store numbers one behind the other."""
    tl.store(to, first)
    tl.store(to + 1, second)
    tl.store(to + 2, third)
    tl.store(to + 3, fourth)


@triton.jit
def _read(
    logits, stride, vocabulary, parts, arrived, tokens, signals, text, seconds, capacity, starts, place, host,
    WRITE: tl.constexpr, TELL: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_next_start(EARLY)
    wait_for_last(EARLY)
    row, chunk = tl.program_id(0), tl.program_id(1)
    columns = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = columns < vocabulary
    x = tl.load(logits + row.to(tl.int64) * stride + columns, mask=inside, other=-float("inf")).to(tl.float32)
    peak = tl.max(x, 0)
    best = tl.min(tl.where(x == peak, columns, vocabulary - 1), 0)  # where no logit is a number, any token
    others = tl.where(columns == best, -float("inf"), x)
    second = tl.max(others, 0)
    weight = tl.exp(x - peak)
    own = parts + (row * CHUNKS + chunk) * 6
    tl.store(own, peak)
    tl.store(own + 1, best.to(tl.float32))  # exact below 2^24
    tl.store(own + 2, second)
    tl.store(own + 3, tl.sum(weight, 0))
    tl.store(own + 4, tl.sum(tl.where(weight > 0, weight * (peak - x), 0.0), 0))
    if WRITE:
        tl.store(own + 5, tl.min(tl.where(others == second, columns, vocabulary - 1), 0).to(tl.float32))
    tl.debug_barrier()
    before = tl.atomic_add(arrived + row, 1)
    if before == tl.num_programs(1) - 1:
        chunks = tl.arange(0, CHUNKS)
        used = chunks < tl.num_programs(1)
        at = parts + (row * CHUNKS + chunks) * 6
        peaks = tl.load(at, mask=used, other=-float("inf"), cache_modifier=".cg")
        bests = tl.load(at + 1, mask=used, other=0.0, cache_modifier=".cg")
        runner_up_logits = tl.load(at + 2, mask=used, other=-float("inf"), cache_modifier=".cg")
        peak = tl.max(peaks, 0)
        winner = tl.min(tl.where(peaks == peak, chunks, 2147483647), 0)
        token = tl.sum(tl.where(chunks == winner, bests, 0.0), 0).to(tl.int32)
        leaders = tl.where(chunks == winner, runner_up_logits, peaks)
        second = tl.max(leaders, 0)
        fade = tl.where(used, tl.exp(peaks - peak), 0.0)
        totals = tl.load(at + 3, mask=used, other=0.0, cache_modifier=".cg")
        below = tl.load(at + 4, mask=used, other=0.0, cache_modifier=".cg")
        total = tl.sum(fade * totals, 0)
        # Entropy = ln Σ exp(x − peak) + Σ p · (peak − x): no digits are lost to the size of the logits.
        below += tl.where(fade > 0, peak - peaks, 0.0) * totals
        entropy = tl.log(total) + tl.sum(fade * below, 0) / total
        bits = tl.maximum(entropy, 0.0) * 1.4426950408889634  # 1 / ln 2
        top2 = tl.exp(second - peak) / total
        if TELL:
            store_four(host + row * 5, bits, 1 / total, top2, token.to(tl.float32))
            tl.store(host + row * 5 + 4, float("nan"))
        store_four(signals + row * 5, bits, 1 / total, top2, token.to(tl.float32))
        tl.store(signals + row * 5 + 4, peak + tl.log(total))
        tl.store(tokens + row, token)
        if WRITE:
            runners_up = tl.load(at + 5, mask=used, other=0.0, cache_modifier=".cg")
            leader = tl.min(tl.where(leaders == second, chunks, CHUNKS - 1), 0)
            other = tl.sum(tl.where(chunks == leader, tl.where(chunks == winner, runners_up, bests), 0.0), 0)
            spot = row.to(tl.int64) * capacity + tl.load(starts + row) + place
            tl.store(text + spot, token)
            tl.store(seconds + spot, other.to(tl.int32))
        tl.store(arrived + row, 0)


@triton.jit
def _accept(
    text, seconds, capacity, starts, gammas, width, depths, best, signals, results, moves,
    WIDTH: tl.constexpr, SPARES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_next_start(EARLY)
    batch = tl.program_id(0)
    # On the host, which takes long; no kernel writes it.
    gamma = tl.load(gammas + batch, volatile=True)
    wait_for_last(EARLY)
    start = tl.load(starts + batch)
    own = text + batch.to(tl.int64) * capacity + start
    at = tl.arange(0, WIDTH)
    proposed = tl.load(own + 1 + at, mask=at < gamma, other=-1)
    chosen = tl.load(best + batch * width + at, mask=at < gamma, other=-1)
    top1 = tl.load(signals + (batch * width + at) * 5 + 1, mask=at < gamma, other=0.0)
    # Logits that are no numbers choose nothing: what stands ends there, and whoever reads the signals sees it.
    wrong = (proposed != chosen) | (top1 != top1)
    accepted = tl.min(tl.where((at < gamma) & wrong, at, gamma), 0)  # -1 for a text that rests
    result = results + batch * 6
    tl.store(result, accepted.to(tl.float32))
    tl.store(result + 4, tl.where(accepted == gamma, float("nan"), 0.0))
    if gamma >= 0:
        row = batch * width + accepted
        token = tl.load(best + row)
        last, place = token, start + 1 + accepted
        if SPARES:
            known = tl.load(signals + row * 5 + 1)
            depth = depth_of(tl.load(depths + batch), at)
            second = tl.load(seconds + batch.to(tl.int64) * capacity + place)
            stands = (at < width) & (depth < at) & (depth == accepted + 1) & (second == token)
            spare = tl.where((accepted < gamma) & (known == known), tl.max(tl.where(stands, at, 0), 0), 0)
            row += tl.where(spare > 0, spare - accepted, 0)
            last = tl.load(best + row)
        tl.store(result + 1, last.to(tl.float32))
        tl.store(result + 2, tl.load(signals + row * 5))
        tl.store(result + 3, tl.load(signals + row * 5 + 1))
        tl.debug_barrier()  # every proposal has been read
        tl.store(own + 1 + accepted, token)
        if SPARES:
            tl.store(result + 5, tl.where(spare > 0, token.to(tl.float32), -1.0))
            if spare > 0:
                tl.store(own + 2 + accepted, last)
            tl.store(moves + batch * 2, tl.where(spare > 0, start + spare, -1))
            tl.store(moves + batch * 2 + 1, place)
            place += (spare > 0).to(tl.int32)
        tl.store(starts + batch, place)
    elif SPARES:
        tl.store(moves + batch * 2, -1)
    if (not SPARES) or gamma < 0:
        tl.store(result + 5, -1.0)


@triton.jit
def _tell(result, host, apart):
    at = tl.arange(0, 8)
    tl.store(host + at, tl.where(at == 4, apart, tl.load(result + at, mask=at < 6, other=0.0)), mask=at < 6)


@triton.jit
def _distance(
    target, target_stride, target_signals, width, draft, slot_stride, draft_signals,
    results, host, vocabulary, parts, arrived, CHUNKS: tl.constexpr, CHUNK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    let_next_start(EARLY)
    wait_for_last(EARLY)
    batch, chunk = tl.program_id(0), tl.program_id(1)
    result, told = results + batch * 6, host + batch * 6
    accepted = tl.load(result).to(tl.int32)
    unknown = tl.load(result + 4)
    if unknown != unknown:  # NaN: all proposals stand
        if chunk == 0:
            _tell(result, told, unknown)
    else:
        columns = chunk * CHUNK + tl.arange(0, CHUNK)
        inside = columns < vocabulary
        row = batch * width + accepted
        p = tl.load(target + row.to(tl.int64) * target_stride + columns, mask=inside, other=-float("inf"))
        q = tl.load(
            draft + accepted.to(tl.int64) * slot_stride + batch * vocabulary + columns,
            mask=inside, other=-float("inf"),
        ).to(tl.float32)  # fmt: skip
        log_p = tl.load(target_signals + row * 5 + 4)
        log_q = tl.load(draft_signals + (accepted * tl.num_programs(0) + batch) * 5 + 4)
        apart = tl.where(inside, tl.abs(tl.exp(p.to(tl.float32) - log_p) - tl.exp(q - log_q)), 0.0)
        tl.store(parts + batch * CHUNKS + chunk, tl.sum(apart, 0))
        tl.debug_barrier()
        before = tl.atomic_add(arrived + batch, 1)
        if before == tl.num_programs(1) - 1:
            chunks = tl.arange(0, CHUNKS)
            all_ = tl.load(
                parts + batch * CHUNKS + chunks, mask=chunks < tl.num_programs(1), other=0.0, cache_modifier=".cg"
            )
            _tell(result, told, tl.sum(all_, 0) / 2)
            tl.store(arrived + batch, 0)


class Spares(NamedTuple):
    """Second choices of the draft, verified in the last of a text's new tokens.

    The new token number i is `depth` places after the text's last one. Those of the text itself are i places after it;
    one that is less is the draft's second choice for the place where it is. A text's depths are one number, of four
    bits each, the first token's the lowest: in kernels that costs less than as many numbers.
    """

    given: Tensor
    """int32 `[texts]`, the depths, pinned."""
    depths: Tensor
    """int32 `[texts]`, the same on the device, where `take` has written them."""
    seconds: Tensor
    """int32 `[texts, capacity]`, the draft's second choices, at the places of its first ones in the text."""
    moves: Tensor
    """int32 `[texts, 2]`: the place that a spare was cached at, -1 where none stands, and its place in the text."""


TEXTS_OWN = sum(number << (4 * number) for number in range(8))
"""Depths of tokens that are all the text's own; see `Spares`."""


def depths_with(gamma: int, places: Iterable[int]) -> int:
    """Return the depths of `gamma` drafted tokens and of the second choices for some of their places, from 0."""
    shift = 4 * (gamma + 1)
    depths = TEXTS_OWN & ((1 << shift) - 1)
    for place in places:
        depths |= (place + 1) << shift
        shift += 4
    return depths


def take(spares: Spares) -> None:
    """Copy the depths to the device."""
    texts = len(spares.given)
    _take[(1,)](
        spares.given, spares.depths, texts, COUNT=triton.next_power_of_2(texts), EARLY=EARLY, num_warps=1,
        launch_pdl=EARLY,
    )  # fmt: skip


def embed(
    text: Tensor,
    rows: Tensor,
    starts: Tensor,
    offset: int,
    width: int,
    table: Tensor,
    out: Tensor,
    spares: Spares | None = None,
) -> None:
    """Look up the tokens at `text[rows[b], starts[b] + offset + i]` in `table` `[V, size]`; outside the text, any.

    Args:
        text: int32 `[rows, capacity]`.
        rows: int32 `[texts]`.
        starts: int32 `[texts]`.
        offset: see above.
        width: tokens of each text.
        table: the embedding.
        out: `[texts · width, size]`.
        spares: which tokens are second choices.
    """
    size = table.shape[1]
    _, depths, seconds, _ = spares or (starts, starts, text, starts)
    _embed[(out.shape[0],)](
        text, seconds, text.stride(0), rows, starts, offset, width, depths, table, size, out,
        SIZE=triton.next_power_of_2(size), SPARES=spares is not None, EARLY=EARLY, launch_pdl=EARLY,
    )  # fmt: skip


def chunks(vocabulary: int) -> int:
    """Return how many partial results a row of logits needs, a power of two."""
    return int(triton.next_power_of_2(triton.cdiv(vocabulary, CHUNK)))


def read(
    logits: Tensor,
    parts: Tensor,
    arrived: Tensor,
    tokens: Tensor,
    signals: Tensor,
    write: tuple[Tensor, Tensor, Tensor, int] | None = None,
    host: Tensor | None = None,
) -> None:
    """Read the likeliest token and the signals off each row of logits.

    Args:
        logits: `[rows, V]`.
        parts: float32 scratch, `rows · chunks(V) · 6`.
        arrived: int32 scratch of zeros, `rows`; left at zero.
        tokens: int32 `[rows]`, the first of the likeliest tokens.
        signals: float32 `[rows, 5]`, see `SIGNALS`.
        write: text and seconds (int32 `[rows, capacity]`), starts (int32 `[rows]`) and place: also write the token to
            `text[b, starts[b] + place]`, and the likeliest of the others to `seconds`, likewise.
        host: float32 `[rows, 5]`, pinned; also write what `TOLD` says there.
    """
    rows, vocabulary = logits.shape
    text, seconds, starts, place = write or (tokens, tokens, tokens, 0)
    _read[(rows, triton.cdiv(vocabulary, CHUNK))](
        logits, logits.stride(0), vocabulary, parts, arrived, tokens, signals, text, seconds, text.stride(0), starts,
        place, signals if host is None else host, WRITE=write is not None, TELL=host is not None,
        CHUNKS=chunks(vocabulary), CHUNK=CHUNK, EARLY=EARLY, launch_pdl=EARLY,
    )  # fmt: skip


def accept(
    text: Tensor,
    starts: Tensor,
    gammas: Tensor,
    width: int,
    best: Tensor,
    signals: Tensor,
    results: Tensor,
    spares: Spares | None = None,
) -> None:
    """Accept proposals while they are the target's choice, write the target's own token after them, and move on.

    Where that token is a spare, the target has also chosen the one after it: then that one ends the step.

    Args:
        text: int32 `[texts, capacity]`; proposals begin at `starts[b] + 1`.
        starts: int32 `[texts]`, moved past what was accepted.
        gammas: int32 `[texts]`, how many were proposed, below `width`; -1 for a text that is left as it is. On the
            device, or pinned.
        width: rows of `best` for each text.
        best: int32 `[texts · width]`, the target's choices.
        signals: float32 `[texts · width, 5]`, the target's.
        results: float32 `[texts, RESULT]`; in the distance's place NaN where all proposals stand, else 0.
        spares: after `gammas[b]` proposals; what there is to move for `keep` is written there.
    """
    _, depths, seconds, moves = spares or (starts, starts, text, starts)
    _accept[(len(starts),)](
        text, seconds, text.stride(0), starts, gammas, width, depths, best, signals, results, moves,
        WIDTH=triton.next_power_of_2(width), SPARES=spares is not None, EARLY=EARLY, launch_pdl=EARLY,
    )  # fmt: skip


def distance(
    target: Tensor,
    target_signals: Tensor,
    width: int,
    draft: Tensor,
    draft_signals: Tensor,
    results: Tensor,
    host: Tensor,
    parts: Tensor,
    arrived: Tensor,
) -> None:
    """Write the results to the host, with the total variation distance at each text's own token.

    Args:
        target: logits, `[texts · width, V]`.
        target_signals: float32 `[texts · width, 5]`.
        width: rows of `target` for each text.
        draft: logits, `[slots, texts, V]`.
        draft_signals: float32 `[slots, texts, 5]`.
        results: float32 `[texts, RESULT]`, as `accept` leaves them.
        host: likewise, pinned; the distance is NaN where all proposals stand.
        parts: float32 scratch, `texts · chunks(V)`.
        arrived: int32 scratch of zeros, `texts`; left at zero.
    """
    vocabulary = target.shape[1]
    _distance[(len(results), triton.cdiv(vocabulary, CHUNK))](
        target, target.stride(0), target_signals, width, draft, draft.stride(0), draft_signals,
        results, host, vocabulary, parts, arrived,
        CHUNKS=chunks(vocabulary), CHUNK=CHUNK, EARLY=EARLY, launch_pdl=EARLY,
    )  # fmt: skip
