"""The schedule of transformers' assisted generation."""

from __future__ import annotations

from runtime.policies.policy import Drafted, Outcome


class Heuristic:
    """Two tokens more after a step whose tokens were all accepted, one less after any other, never below one.

    Source: transformers, `AssistedCandidateGenerator.update_candidate_strategy` with
    `num_assistant_tokens_schedule="heuristic"`, begun at 5 tokens (the default while this schedule was it). The
    length persists over texts, as there.
    """

    name = "heuristic"

    def __init__(self) -> None:
        self.length = 5

    def begin(self) -> None:
        """Keep the length: the source's persists over calls."""

    def gamma(self, drafted: Drafted) -> int:  # noqa: ARG002  (looks at outcomes only)
        """Return the current length."""
        return self.length

    def observe(self, outcome: Outcome) -> None:
        """Lengthen or shorten."""
        self.length = self.length + 2 if outcome.accepted == outcome.gamma else max(1, self.length - 1)
