"""One draft forward and one verification on the fast loop, beside what reading their bytes takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from runtime.bench.roofline import Reading, cache_bytes, copy_bandwidth, reading, stored_bytes
from runtime.bench.shapes import Shape, random_model
from runtime.policies.price import LONGEST
from runtime.profile.step_times import measure_widths

VERIFIED = 5
"""Tokens of the timed verification."""
REPEATS = 50


@dataclass(frozen=True)
class Call:
    """One kind of call."""

    ms: float
    """Median milliseconds, until its result is on the host."""
    limit_ms: float
    """Of reading the weights and the cache once, at the speed of a copy."""
    times_limit: float
    """The one over the other."""


@dataclass(frozen=True)
class StepRow:
    """A pair's calls at one context."""

    precision: str
    """Of the target; the draft is fp16."""
    context: int
    """Tokens in the caches."""
    copy_bytes_per_second: float
    draft: Call
    """On one token."""
    verify: Call
    """On `VERIFIED` tokens."""
    expected_bytes: int
    """Weights as they are stored, and caches for the context and one step."""
    peak_bytes: int | None
    """On the device while that is measured; None on the CPU."""


def measure_steps(
    shapes: tuple[Shape, Shape],
    precision: str,
    contexts: Sequence[int],
    device: str,
    announce: Callable[[str], None] = lambda _: None,
) -> Iterator[StepRow]:
    """Yield the step times of a pair with random weights at each context.

    Args:
        shapes: of draft and target.
        precision: of the target: fp16, int8 or nf4.
        contexts: tokens in the caches.
        device: "cuda", or "cpu" in the kernels' interpreter.
        announce: told what begins.
    """
    bandwidth = copy_bandwidth(torch.device(device))
    announce("making random weights")
    before = _allocated(device)
    draft, target = random_model(shapes[0], "fp16", device), random_model(shapes[1], precision, device)
    for context in contexts:
        announce(f"context {context}; kernels are compiled the first time")
        expected = stored_bytes(draft, target) + (context + LONGEST) * (cache_bytes(draft) + cache_bytes(target))
        times, peak = _measure(draft, target, context, device)
        yield StepRow(
            precision=precision,
            context=context,
            copy_bytes_per_second=bandwidth,
            draft=_call(times[0], reading(draft), context, bandwidth),
            verify=_call(times[1], reading(target), context, bandwidth),
            expected_bytes=expected,
            peak_bytes=None if peak is None else peak - before,
        )


def _measure(
    draft: PreTrainedModel, target: PreTrainedModel, context: int, device: str
) -> tuple[tuple[float, float], int | None]:
    """Return the milliseconds of both calls, and the peak of the device's memory."""
    from runtime.cuda.pair import GraphPair
    from runtime.cuda.times import TimedDraft, TimedTarget

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    pair = GraphPair(draft, target, texts=1, capacity=context + LONGEST, longest=LONGEST)
    pair.begin({0: [0] * context})
    times = (
        measure_widths("graph", TimedDraft(pair), (1,), REPEATS)["graph1"],
        measure_widths("graph", TimedTarget(pair), (VERIFIED,), REPEATS)[f"graph{VERIFIED}"],
    )
    return times, None if device == "cpu" else torch.cuda.max_memory_allocated()


def _allocated(device: str) -> int:
    return 0 if device == "cpu" else torch.cuda.memory_allocated()


def _call(ms: float, read: Reading, context: int, bandwidth: float) -> Call:
    limit = read.forward(context) / bandwidth * 1e3
    return Call(ms, limit, ms / limit)
