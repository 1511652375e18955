"""Timing a pair's graphs, one call at a time."""

from __future__ import annotations

import time

from runtime.cuda.pair import GraphPair
from runtime.stopper.stopper import Stopper


class TimedDraft:
    """The draft's calls; see `Timed`.

    Args:
        pair: to time.
        stopper: if the device answers by rules on it, too.
    """

    def __init__(self, pair: GraphPair, stopper: Stopper | None = None) -> None:
        self.pair, self.stopper = pair, stopper

    def forward_ms(self, tokens: int) -> float:
        """Return the milliseconds of drafting one token after `tokens` new ones, until its signals are there."""
        self.pair.foresee(self.stopper)
        start = time.perf_counter()
        self.pair.draft(0, tokens)
        self.pair.drafted(0)
        return (time.perf_counter() - start) * 1e3


class TimedChain:
    """The draft's calls one behind the other, the first after one new token; see `Timed`."""

    def __init__(self, pair: GraphPair) -> None:
        self.pair = pair

    def forward_ms(self, tokens: int) -> float:
        """Return the milliseconds of drafting `tokens`, all begun at once, until the last one's signals are there."""
        self.pair.foresee(None)
        start = time.perf_counter()
        for slot in range(tokens):
            self.pair.draft(slot, 1)
        for slot in range(tokens):
            self.pair.drafted(slot)
        return (time.perf_counter() - start) * 1e3


class TimedTarget:
    """The target's calls; see `Timed`. The text stays as long as it is."""

    def __init__(self, pair: GraphPair) -> None:
        self.pair = pair
        self.starts = pair.starts.clone()

    def forward_ms(self, tokens: int) -> float:
        """Return the milliseconds of verifying as many tokens, until the outcome is there."""
        start = time.perf_counter()
        self.begin(tokens)
        self.pair.verified()
        milliseconds = (time.perf_counter() - start) * 1e3
        self.pair.starts.copy_(self.starts)
        return milliseconds

    def begin(self, tokens: int) -> None:
        """Begin to verify the last token and the proposals after it."""
        self.pair.verify([tokens - 1] * self.pair.texts)


class TimedSpares(TimedTarget):
    """The target's calls in which the last proposal but one is the first place's spare, the last the second's."""

    def begin(self, tokens: int) -> None:
        """Begin to verify, two spares among the tokens."""
        self.pair.verify([tokens - 3] * self.pair.texts, spares={0: [0, 1]})
