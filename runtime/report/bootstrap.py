"""Intervals by the paired bootstrap over prompts (Efron 1979, percentile method)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.replay.comparison import rate
from runtime.replay.replay import Run

RESAMPLES = 5_000
SEED = 0
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure of all prompts and its 95 % interval."""

    value: float
    low: float
    high: float


class Resamples:
    """Prompts drawn anew with replacement, the same draws for every policy: differences are paired."""

    def __init__(self, prompts: int) -> None:
        shares = np.full(prompts, 1 / prompts)
        self._counts = np.random.default_rng(SEED).multinomial(prompts, shares, size=RESAMPLES).astype(np.float64)

    def rate(self, runs: Sequence[Run]) -> Interval:
        """Return tokens per second with its interval; one run a prompt."""
        return _interval(rate(runs), self._rates(runs))

    def ratio(self, runs: Sequence[Run], to: Sequence[Run]) -> Interval:
        """Return the ratio of two policies' tokens per second on the same prompts, with its interval."""
        return _interval(rate(runs) / rate(to), self._rates(runs) / self._rates(to))

    def _rates(self, runs: Sequence[Run]) -> NDArray[np.float64]:
        """Return the tokens per second of each resample, `[RESAMPLES]`."""
        tokens = np.array([run.tokens for run in runs], dtype=np.float64)
        milliseconds = np.array([run.model_ms + run.policy_ms for run in runs])
        rates: NDArray[np.float64] = 1e3 * (self._counts @ tokens) / (self._counts @ milliseconds)
        return rates


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(value, float(low), float(high))
