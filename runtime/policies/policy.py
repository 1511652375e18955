"""What a policy sees and what it answers. A policy knows no model: replay and the live loop run the same objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from runtime.decision.signals import Signals


class TokenSignals(NamedTuple):
    """What the draft's distribution said where one token was drafted."""

    entropy: float
    """Bits."""
    top1: float
    """Probability of the likeliest token."""
    top2: float
    """Probability of the second likeliest token."""


@dataclass
class Drafted:
    """The tokens drafted so far in the step, as their signals; grows while the step drafts."""

    tokens: list[TokenSignals] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many tokens have been drafted in this step."""
        return len(self.tokens)

    def signals(self) -> Signals:
        """Summarise into the four published signals; needs at least one token."""
        entropies = [token.entropy for token in self.tokens]
        confidences = [token.top1 for token in self.tokens]
        return Signals(
            sum(entropies) / len(entropies), sum(confidences) / len(confidences), max(entropies), min(confidences)
        )


class Policy(Protocol):
    """Chooses how far a step drafts.

    Losslessness (Leviathan 2023) asks that every token drawn is verified. A policy cannot break this: it only says
    how long the draft becomes, and what is drafted is always verified.
    """

    name: str

    def gamma(self, drafted: Drafted) -> int:
        """Return the length, in tokens, to draft up to before asking again.

        The loop asks with what has been drafted so far (nothing, at the start of a step); an answer not above
        `drafted.count` ends the drafting. 0 at the start means a plain decoding step.
        """
        ...
