"""The length with the most expected tokens per millisecond, from a running acceptance rate."""

from __future__ import annotations

from runtime.policies.policy import Drafted, Outcome
from runtime.policies.step_times import StepTimes


class Throughput:
    """Argmax over gamma from 1 to 8 of expected tokens over step time, at one acceptance probability α a token.

    Expected tokens are (1 − α^(gamma + 1)) / (1 − α) (Leviathan 2023, equation 1).

    Source: SmartSpec / TurboSpec (Liu 2024, arXiv 2406.14066), goodput at batch 1. The paper estimates α by a moving
    average of past acceptance without giving its constants. Here α is the share of accepted among verified tokens
    (accepted ones and the first rejected one) with a memory of 20 steps, begun at 0.7 with the weight of 4 tokens.
    The paper's gamma 0 is left out: alone in the batch, a text that drafts nothing could never learn to draft again.
    """

    name = "throughput"
    weighs_time = True
    LENGTHS = range(1, 9)
    MEMORY = 0.95
    FIRST_RATE, FIRST_WEIGHT = 0.7, 4.0

    def __init__(self, times: StepTimes) -> None:
        self.step_ms = [times.step_ms(length) for length in self.LENGTHS]
        self.begin()

    def begin(self) -> None:
        """Forget the last text's acceptance."""
        self.accepted, self.verified = self.FIRST_RATE * self.FIRST_WEIGHT, self.FIRST_WEIGHT
        self._choose()

    def gamma(self, drafted: Drafted) -> int:  # noqa: ARG002  (looks at outcomes only)
        """Return the length of the best expected rate."""
        return self.length

    def observe(self, outcome: Outcome) -> None:
        """Update the acceptance rate and choose the next length."""
        if not outcome.gamma:
            return
        rejected = outcome.accepted < outcome.gamma
        self.accepted = self.MEMORY * self.accepted + outcome.accepted
        self.verified = self.MEMORY * self.verified + outcome.accepted + rejected
        self._choose()

    def _choose(self) -> None:
        alpha = self.accepted / self.verified
        tokens, survival, best = 1.0, 1.0, 0.0
        for length, milliseconds in zip(self.LENGTHS, self.step_ms, strict=True):
            survival *= alpha
            tokens += survival
            if tokens / milliseconds > best:
                self.length, best = length, tokens / milliseconds
