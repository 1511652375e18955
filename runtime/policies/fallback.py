"""What drafts where a policy has failed."""

from __future__ import annotations

from runtime.policies.policy import Drafted, Outcome


class Fallback:
    """Two tokens a step; none any more once eight steps in a row have drafted for nothing.

    Two are worth their time on most pairs and cost little on the others; eight steps without a token that stands say
    that the pair does not agree at all.
    """

    name = "fallback"
    LENGTH = 2
    PATIENCE = 8
    """Steps."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Draft again."""
        self.in_vain = 0

    def gamma(self, drafted: Drafted) -> int:  # noqa: ARG002  (looks at outcomes only)
        """Return two, or none."""
        return self.LENGTH if self.in_vain < self.PATIENCE else 0

    def observe(self, outcome: Outcome) -> None:
        """Count the steps in a row of which nothing stood."""
        if outcome.gamma:
            self.in_vain = 0 if outcome.accepted else self.in_vain + 1
