"""SVIP: stop where the draft's entropy says the acceptance rate's lower bound is low."""

from __future__ import annotations

import math

from runtime.policies.policy import Drafted, StopRule


class SVIP(StopRule):
    """Stops after a token where sqrt(0.15 · H) exceeds a threshold, H the draft's entropy in nats; 40 tokens at most.

    Source: SVIP (Zhang 2024, arXiv 2411.18462) and its code, `vanilla-sd/eval_specbench.py`, whose factor 0.15,
    threshold 0.3 and longest draft 40 these are. There, too, the token that stops the draft is verified.
    """

    longest = 40
    FACTOR = 0.15

    def __init__(self, threshold: float = 0.3) -> None:
        self.threshold = threshold
        self.name = f"svip:{threshold:g}"

    def stops(self, drafted: Drafted) -> bool:
        """Return whether the last token's entropy is too high."""
        nats = drafted.tokens[-1].entropy * math.log(2)
        return math.sqrt(self.FACTOR * nats) > self.threshold
