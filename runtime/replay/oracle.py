"""The policy that has read the trace."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.policies.policy import Drafted, Outcome
from runtime.replay.traces import Text


class Oracle:
    """Drafts exactly the tokens that will be accepted: nothing is ever drafted in vain.

    It follows the texts of a replay in their order, so an oracle serves one replay.
    """

    name = "oracle"
    drafts_in_vain = False
    """A loop that drafts ahead (`StepTimes.ahead`) would have been told not to, where it is for nothing."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self._texts = iter(texts)

    def begin(self) -> None:
        """Turn to the next text."""
        self.accepted = next(self._texts).accepted
        self.position = 0

    def gamma(self, drafted: Drafted) -> int:  # noqa: ARG002  (knows better)
        """Return how many tokens will be accepted."""
        return self.accepted[self.position]

    def observe(self, outcome: Outcome) -> None:
        """Move on past the accepted tokens and the target's own."""
        self.position += outcome.tokens
