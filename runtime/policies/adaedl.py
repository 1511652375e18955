"""AdaEDL: an entropy bound on the acceptance probability against a threshold that follows the acceptance rate."""

from __future__ import annotations

import math

from runtime.policies.policy import Drafted, Outcome, StopRule


class AdaEDL(StopRule):
    """Stops where 1 − sqrt(0.2 · H) < λ, H the draft's entropy in nats; 16 tokens at most.

    After each step, with the acceptance rate r smoothed as AR ← 0.5 AR + 0.5 r: λ' = λ + 0.01 if AR < 0.9, λ − 0.01
    if it is not but some token was rejected, else λ; then λ ← 0.9 λ + 0.1 λ'.

    Source: AdaEDL (Agrawal 2024, arXiv 2410.18351), section 3 and algorithm 1 with the paper's constants. The paper
    sweeps the initial λ from 0.3 to 0.9 and fixes none: 0.5 here; nor does it give the first AR: the target 0.9
    here. "Not all accepted" is taken of the tokens drafted. Both are forgotten when a text begins.
    """

    longest = 16
    FACTOR, TARGET, STEP = 0.2, 0.9, 0.01
    RATE_MEMORY, THRESHOLD_MEMORY = 0.5, 0.9

    def __init__(self, threshold: float = 0.5) -> None:
        self.initial = threshold
        self.name = f"adaedl:{threshold:g}"
        self.begin()

    def begin(self) -> None:
        """Return to the initial threshold."""
        self.threshold = self.initial
        self.rate = self.TARGET

    def stops(self, drafted: Drafted) -> bool:
        """Return whether the bound at the last token is below the threshold."""
        nats = drafted.tokens[-1].entropy * math.log(2)
        return 1 - math.sqrt(self.FACTOR * nats) < self.threshold

    def observe(self, outcome: Outcome) -> None:
        """Move the threshold."""
        if not outcome.gamma:
            return
        self.rate = self.RATE_MEMORY * self.rate + (1 - self.RATE_MEMORY) * outcome.accepted / outcome.gamma
        moved = self.threshold
        if self.rate < self.TARGET:
            moved += self.STEP
        elif outcome.accepted < outcome.gamma:
            moved -= self.STEP
        self.threshold = self.THRESHOLD_MEMORY * self.threshold + (1 - self.THRESHOLD_MEMORY) * moved
