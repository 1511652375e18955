"""What a token is worth in milliseconds, from the step times alone."""

from __future__ import annotations

import numpy as np

from runtime.policies.step_times import StepTimes

LONGEST = 16
"""Tokens drafted at most in a step."""
BINS = 200


class Price:
    """The best rate, in tokens per millisecond, that a text would reach whose every token stands with probability b.

    R(b) = max over gamma of (1 − b^(gamma + 1)) / (1 − b) / step_ms(gamma) (Leviathan 2023, equation 1, over time). A
    token drafted now saves the time that it would take otherwise, and that is what the same kind of text takes: where
    the draft does badly a token costs more to come by, and so is worth more, than on the average of all texts.

    Tabulated over multiples of 1 / `BINS`; a value between two of them counts as the lower.
    """

    def __init__(self, times: StepTimes) -> None:
        powers = np.linspace(0, 1, BINS + 1)[:, None] ** np.arange(LONGEST + 1)  # [BINS + 1, LONGEST + 1]: b^0, b^1, …
        tokens = powers.cumsum(1)  # 1 + b + … + b^gamma
        step_ms = np.array([times.step_ms(gamma) for gamma in range(LONGEST + 1)])
        rates = tokens / step_ms
        best = rates.max(1, keepdims=True)
        self._lengths: list[int] = rates.argmax(1).tolist()
        self._least: list[list[float]] = [[]]
        for drafted in range(1, LONGEST):
            more_ms = step_ms[drafted + 1 :] - step_ms[drafted]  # of 1, 2, … more tokens
            self._least.append((best * more_ms / tokens[:, : len(more_ms)]).min(1).tolist())

    def length(self, probability: float) -> int:
        """Return the gamma that reaches R(b), in tokens; 0 where drafting does not pay."""
        return self._lengths[int(probability * BINS)]

    def least(self, drafted: int, probability: float) -> float:
        """Return how probable one more token must be for it to pay, alone or with those that may follow it.

        The minimum over k of R(b) · (milliseconds of k more tokens) / (1 + b + … + b^(k − 1)): often the first tokens
        make verification dearer and the later ones do not, and then one alone never pays where many do.

        Args:
            drafted: tokens drafted so far, from 1 to `LONGEST` − 1.
            probability: b, of each further token if those before it stand.
        """
        return self._least[drafted][int(probability * BINS)]
