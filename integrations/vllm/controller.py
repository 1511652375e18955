"""How many tokens the whole batch drafts next: the rate rule on what the engine's scheduler sees."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from statistics import median

import numpy as np

from integrations.vllm.times import EngineTimes


class Acceptance:
    """Share of verified draft tokens that stood, with a memory of 20 steps, begun at `rate` with the weight of 4."""

    MEMORY = 0.95
    WEIGHT = 4.0

    def __init__(self, rate: float) -> None:
        self.accepted, self.verified = rate * self.WEIGHT, self.WEIGHT

    @property
    def rate(self) -> float:
        """Probability that a drafted token stands where the one before it did."""
        return self.accepted / self.verified

    def observe(self, drafted: int, accepted: int) -> None:
        """Count the accepted tokens and the first rejected one; those behind it were not judged."""
        self.accepted = self.MEMORY * self.accepted + accepted
        self.verified = self.MEMORY * self.verified + accepted + (accepted < drafted)


class MeasuredSteps:
    """Step times that follow the engine: per batch size and length, the median of the last measured over expected.

    Batch sizes are taken together between powers of two. A pair that has not been measured five times is taken to be as
    wrong as all others are together, so that nothing is preferred for not having been tried; nothing is tried for the
    sake of measuring either, as acceptance moves the lengths enough.
    """

    MEMORY, LEAST = 21, 5

    def __init__(self, times: EngineTimes) -> None:
        self.times = times
        self._all: deque[float] = deque(maxlen=4 * self.MEMORY)
        self._ratios: dict[tuple[int, int], deque[float]] = {}
        self._corrections: dict[tuple[int, int], float] = {}
        self._common = 1.0

    def step(self, batch: int, length: int) -> float:
        """Milliseconds of a step with `length` tokens a request, as of late."""
        correction = self._corrections.get((batch.bit_length(), length), self._common)
        return correction * self.times.step(batch, length)

    def observe(self, batch: int, length: int, milliseconds: float) -> None:
        """Learn from a step whose requests all verified and then drafted `length` tokens."""
        ratio = milliseconds / self.times.step(batch, length)
        key = batch.bit_length(), length
        ratios = self._ratios.setdefault(key, deque(maxlen=self.MEMORY))
        for memory in (ratios, self._all):
            memory.append(ratio)
        self._common = median(self._all)
        if len(ratios) >= self.LEAST:
            self._corrections[key] = median(ratios)


class Controller:
    """Chooses the length with the most expected tokens of the whole batch per millisecond, 0 among them.

    A request whose drafted tokens stand with probability α yields (1 − α^(n + 1)) / (1 − α) tokens from n drafted ones
    (Leviathan 2023, equation 1); the engine drafts equally many for all requests of a step, so the sum over them is
    divided by the step's time (goodput: SmartSpec, Liu 2024, arXiv 2406.14066). α is each request's own running
    acceptance, begun at that of all requests so far. The draft's probabilities, which the project's other rules read,
    do not reach the engine's scheduler.

    Where no length pays nothing would be learned any more, so one token is drafted now and then: at most one percent of
    the time is spent on such trials.

    Args:
        times: what a step is expected to cost.
        longest: tokens drafted at most, the engine's `num_speculative_tokens`.
        rate: the acceptance to begin with, in [0, 1].
    """

    TRIALS = 0.01

    def __init__(self, times: EngineTimes, longest: int, rate: float) -> None:
        self.steps = MeasuredSteps(times)
        self.longest = longest
        self.overall = Acceptance(rate)
        self.requests: dict[str, Acceptance] = {}
        self.budget_ms = 0.0

    def length(self, requests: Collection[str]) -> int:
        """Return the tokens that each of the requests, at least one, is to draft next."""
        rates = [self.requests.setdefault(name, Acceptance(self.overall.rate)).rate for name in requests]
        tokens = _expected_tokens(rates, self.longest)
        costs = [self.steps.step(len(rates), length) for length in range(self.longest + 1)]
        values = [count / cost for count, cost in zip(tokens, costs, strict=True)]
        best = values.index(max(values))
        if best:
            return best
        loss_ms = costs[1] - tokens[1] / values[0]
        self.budget_ms += self.TRIALS * costs[0]
        if self.budget_ms < loss_ms:
            return 0
        self.budget_ms -= loss_ms
        return 1

    def observe(self, request: str, drafted: int, accepted: int) -> None:
        """Learn what became of a request's `drafted` ≥ 1 tokens; of one that is gone, only for all others."""
        self.overall.observe(drafted, accepted)
        if request in self.requests:
            self.requests[request].observe(drafted, accepted)

    def forget(self, finished: Collection[str]) -> None:
        """Drop requests that have ended."""
        for request in finished:
            self.requests.pop(request, None)


def _expected_tokens(rates: Sequence[float], longest: int) -> list[float]:
    """Return the tokens of all requests together for every length from 0 to `longest`."""
    survivals = np.power.outer(np.asarray(rates), np.arange(longest + 1)).sum(axis=0)
    return [float(tokens) for tokens in survivals.cumsum()]
