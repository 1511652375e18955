"""The policy that has read the trace."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.policies.policy import Drafted, Outcome
from runtime.replay.traces import Text


class Oracle:
    """Drafts exactly the tokens that will be accepted.

    Nothing is drafted in vain, but for the token that a loop on graphs drafts before it asks (`StepTimes.ahead`).

    It follows the texts of a replay in their order, so an oracle serves one replay.
    """

    name = "oracle"

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
        self.position += outcome.accepted + 1
