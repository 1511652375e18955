"""What a token is worth in milliseconds, from the step times alone."""

from __future__ import annotations

import numpy as np

from runtime.policies.step_times import StepTimes

LONGEST = 16
"""Tokens drafted at most in a step."""
BINS = 200

_TOKENS = (np.linspace(0, 1, BINS + 1) ** np.arange(LONGEST + 1)[:, None]).cumsum(0)
"""`[gamma, bin]`: 1 + b + … + b^gamma."""
_PER_TOKEN = 1 / _TOKENS[:LONGEST]
_FURTHER = np.add.outer(np.arange(LONGEST), np.arange(1, LONGEST + 1))
"""`[drafted, k − 1]`: the gamma that k more tokens make, up to twice the longest."""


class Price:
    """The best rate, in tokens per millisecond, that a text would reach whose every token stands with probability b.

    R(b) = max over gamma of (1 − b^(gamma + 1)) / (1 − b) / step_ms(gamma) (Leviathan 2023, equation 1, over time). A
    token drafted now saves the time that it would take otherwise, and that is what the same kind of text takes: where
    the draft does badly a token costs more to come by, and so is worth more, than on the average of all texts.

    Tabulated over multiples of 1 / `BINS`; a value between two of them counts as the lower. A factor common to all
    times changes no answer.

    Args:
        times: of the steps.
        ratio: what drafting takes, times what `times` says, where verifying takes what it says.
    """

    def __init__(self, times: StepTimes, ratio: float = 1.0) -> None:
        gammas = range(LONGEST + 1)
        step_ms = np.array([ratio * times.drafting_ms(gamma) + times.target_ms(gamma + 1) for gamma in gammas])
        rates = _TOKENS / step_ms[:, None]
        # [drafted, k − 1]: milliseconds of k more tokens, endless beyond the longest step.
        more_ms = np.append(step_ms, [np.inf] * LONGEST)[_FURTHER] - step_ms[:LONGEST, None]
        self._lengths: list[int] = rates.argmax(0).tolist()
        self._rates: list[float] = rates.max(0).tolist()
        self.table = rates.max(0) * (more_ms[:, :, None] * _PER_TOKEN).min(1)
        """`[drafted, bin]`: what `least` returns, float64 `[LONGEST, BINS + 1]`."""

    def length(self, probability: float) -> int:
        """Return the gamma that reaches R(b), in tokens; 0 where drafting does not pay."""
        return self._lengths[int(probability * BINS)]

    def rate(self, probability: float) -> float:
        """Return R(b), in tokens per millisecond of a machine whose target takes what `times` say."""
        return self._rates[int(probability * BINS)]

    def least(self, drafted: int, probability: float) -> float:
        """Return how probable one more token must be for it to pay, alone or with those that may follow it.

        The minimum over k of R(b) · (milliseconds of k more tokens) / (1 + b + … + b^(k − 1)): often the first tokens
        make verification dearer and the later ones do not, and then one alone never pays where many do.

        Args:
            drafted: tokens drafted so far, from 1 to `LONGEST` − 1.
            probability: b, of each further token if those before it stand.
        """
        least: float = self.table.item(drafted, int(probability * BINS))
        return least
