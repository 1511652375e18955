"""The published predictor with the clock in its objective."""

from __future__ import annotations

from runtime.contract import PUBLISHED_CANDIDATES
from runtime.decision.selector import GammaSelector
from runtime.policies.policy import Drafted, Memoryless
from runtime.policies.step_times import StepTimes


class SpecKVCost(Memoryless):
    """SpecKV's MLP16 (Shukla 2026) with expected tokens divided by the measured time of a step.

    The same decision graph and the published candidates 2, 4, 6, 8; its `step_cost` is the milliseconds of a step of
    each. After the smallest candidate it asks again at every token and stops once the choice is not above what has
    been drafted: the signals sharpen while the step drafts.
    """

    name = "speckv-cost"
    weighs_time = True

    def __init__(self, selector: GammaSelector, compression: str | int, times: StepTimes) -> None:
        self.selector = selector
        self.compression = compression
        self.step_cost = [times.step_ms(candidate) for candidate in PUBLISHED_CANDIDATES]
        self.first = min(PUBLISHED_CANDIDATES)

    def gamma(self, drafted: Drafted) -> int:
        """Draft the smallest candidate, then token by token while the selector's choice lies ahead."""
        if drafted.count < self.first:
            return self.first
        decision = self.selector.select(drafted.signals(), self.compression, PUBLISHED_CANDIDATES, self.step_cost)
        return min(decision.gamma, drafted.count + 1)
