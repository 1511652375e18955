"""The four draft signals that a decision is made from."""

from __future__ import annotations

from typing import NamedTuple

from runtime.contract import MAX_ENTROPY_BITS, SIGNALS
from runtime.errors import SpeckvError


class Signals(NamedTuple):
    """What the draft knows over the tokens drafted so far in the step (SpecKV, section 4).

    Entropies in bits of the draft's full distribution, confidences its top-1 probability.
    """

    mean_draft_entropy: float
    mean_draft_confidence: float
    max_draft_entropy: float
    min_draft_confidence: float


UPPER_BOUNDS = Signals(MAX_ENTROPY_BITS, 1.0, MAX_ENTROPY_BITS, 1.0)


def check_signals(mean_entropy: float, mean_confidence: float, max_entropy: float, min_confidence: float) -> None:
    """Refuse signals that no distribution can have.

    Raises:
        SpeckvError: naming the first signal that is NaN or out of its range.
    """
    # One chained comparison on the good path, NaN included: this runs at every decision.
    if (
        0.0 <= mean_entropy <= MAX_ENTROPY_BITS
        and 0.0 <= mean_confidence <= 1.0
        and 0.0 <= max_entropy <= MAX_ENTROPY_BITS
        and 0.0 <= min_confidence <= 1.0
    ):
        return
    values = (mean_entropy, mean_confidence, max_entropy, min_confidence)
    for name, value, upper in zip(SIGNALS, values, UPPER_BOUNDS, strict=True):
        if not 0.0 <= value <= upper:
            unit = "bits" if "entropy" in name else "a probability"
            raise SpeckvError(f"{name} is {value}: it must be from 0 to {upper:g} ({unit})")
