"""SpecDec++: stop when some drafted token has probably been rejected already."""

from __future__ import annotations

import math

from runtime.policies.policy import Drafted, StopRule


class SpecDecPlusPlus(StopRule):
    """Stops when 1 − Π p_i exceeds a threshold, p_i the acceptance probability of token i; 2 to 20 tokens.

    Source: SpecDec++ (Huang 2024, arXiv 2405.19715) and its code, threshold 0.7 and bounds 2 and 20. The paper
    trains a head on the draft's hidden states for p_i; without one, the draft's top-1 probability stands in.
    """

    shortest, longest = 2, 20

    def __init__(self, threshold: float = 0.7) -> None:
        self.threshold = threshold
        self.name = f"specdec++:{threshold:g}"

    def stops(self, drafted: Drafted) -> bool:
        """Return whether a rejection among the drafted tokens is too likely."""
        rejection = 1 - math.prod(token.top1 for token in drafted.tokens)
        return drafted.count >= self.shortest and rejection > self.threshold
