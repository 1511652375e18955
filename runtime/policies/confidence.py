"""The stopping rule of transformers' assisted generation."""

from __future__ import annotations

from runtime.policies.policy import Drafted, StopRule


class Confidence(StopRule):
    """Stops after a token whose draft probability is below a threshold; 20 tokens at most.

    Source: transformers, `ConfidenceCriteria` in `generation/stopping_criteria.py` with the defaults
    `assistant_confidence_threshold` 0.4 and `num_assistant_tokens` 20 (constant schedule). The probability is the
    drawn token's own there; it is the top-1 probability here, the same under greedy decoding. Where scikit-learn is
    installed transformers also moves the threshold along a ROC curve; that part is left out.
    """

    longest = 20

    def __init__(self, threshold: float = 0.4) -> None:
        self.threshold = threshold
        self.name = f"confidence:{threshold:g}"

    def stops(self, drafted: Drafted) -> bool:
        """Return whether the last token is too unlikely."""
        return drafted.tokens[-1].top1 < self.threshold
