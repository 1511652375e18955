"""What a generation amounted to: tokens per second, tokens per step, acceptance, histogram of gamma."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.loop.generate import Step


@dataclass(frozen=True)
class Statistics:
    """Summary of one generation."""

    tokens: int
    steps: int
    seconds: float
    """Wall-clock time of decoding, the prompt's own forward passes included."""
    tokens_per_second: float
    tokens_per_step: float
    acceptance_rate: float | None
    """Accepted over drafted tokens; None when nothing was drafted."""
    gamma_histogram: dict[int, int]
    """Drafted length in tokens → steps."""


def summarise(steps: Sequence[Step], seconds: float) -> Statistics:
    """Summarise the steps of one generation that took `seconds`."""
    tokens = sum(len(step.tokens) for step in steps)
    drafted = sum(step.gamma for step in steps)
    return Statistics(
        tokens=tokens,
        steps=len(steps),
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        tokens_per_step=tokens / len(steps) if steps else 0.0,
        acceptance_rate=sum(step.accepted for step in steps) / drafted if drafted else None,
        gamma_histogram=dict(sorted(Counter(step.gamma for step in steps).items())),
    )
