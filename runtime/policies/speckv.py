"""The published controller, made causal."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.contract import PUBLISHED_CANDIDATES
from runtime.decision.selector import GammaSelector
from runtime.policies.policy import Drafted, Memoryless


class SpecKV(Memoryless):
    """SpecKV (Shukla 2026, algorithm 1): the gamma with the most expected tokens per step.

    The published evaluation feeds the signals of the very tokens whose number is being chosen; a live loop has only
    those drafted so far. So it drafts the smallest candidate, asks once, and goes on to the chosen length.
    """

    def __init__(
        self, selector: GammaSelector, compression: str | int, candidates: Sequence[int] = PUBLISHED_CANDIDATES
    ) -> None:
        self.name = "speckv"
        self.selector = selector
        self.compression = compression
        self.candidates = tuple(candidates)
        self.first = min(self.candidates)

    def gamma(self, drafted: Drafted) -> int:
        """Draft the smallest candidate, then up to the selector's choice."""
        if drafted.count < self.first:
            return self.first
        if drafted.count > self.first:
            return drafted.count
        return self.selector.select(drafted.signals(), self.compression, self.candidates).gamma
