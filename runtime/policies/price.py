"""What a token is worth in milliseconds, from the step times alone."""

from __future__ import annotations

from runtime.policies.step_times import StepTimes

LONGEST = 16
"""Tokens drafted at most in a step."""
BINS = 200


class Price:
    """The best rate, in tokens per millisecond, that a text would reach whose every token stands with probability b.

    R(b) = max over gamma of (1 − b^(gamma + 1)) / (1 − b) / step_ms(gamma) (Leviathan 2023, equation 1, over time). A
    token drafted now saves the time that it would take otherwise, and that is what the same kind of text takes: where
    the draft does badly a token costs more to come by, and so is worth more, than on the average of all texts.
    """

    def __init__(self, times: StepTimes) -> None:
        self._rates, self._lengths = [], []
        step_ms = [times.step_ms(gamma) for gamma in range(LONGEST + 1)]
        for place in range(BINS):
            b = place / BINS
            rates = [(1 - b ** (gamma + 1)) / (1 - b) / milliseconds for gamma, milliseconds in enumerate(step_ms)]
            self._rates.append(max(rates))
            self._lengths.append(rates.index(max(rates)))

    def rate(self, probability: float) -> float:
        """Return R(b), tokens per millisecond."""
        return self._rates[min(int(probability * BINS), BINS - 1)]

    def length(self, probability: float) -> int:
        """Return the gamma that reaches R(b), in tokens; 0 where drafting does not pay."""
        return self._lengths[min(int(probability * BINS), BINS - 1)]
