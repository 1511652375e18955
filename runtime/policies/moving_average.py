"""SGLang's adaptive speculation: a moving average of the accepted length, with hysteresis."""

from __future__ import annotations

from runtime.policies.policy import Drafted, Outcome


class MovingAverage:
    """Moves among the lengths 1, 3 and 7 with a moving average of accepted tokens.

    Every 5 steps after the first 10: down a rung while the average ≤ (the rung below) − 0.5 − 0.25, then up while it
    > (the present rung) − 0.5. The average forgets a fifth a step; begun at length 3, it is 2.

    Source: SGLang, `python/sglang/srt/speculative/adaptive_spec_params.py` (`AdaptiveSpeculativeParams`), with its
    defaults. It belongs to the server there, so it persists over texts.
    """

    name = "moving-average"
    LENGTHS = (1, 3, 7)
    FORGETTING = 0.2
    WARM_UP, INTERVAL = 10, 5
    DOWN, UP = -0.25, 0.0

    def __init__(self) -> None:
        self.rung = 1
        self.average = float(self.LENGTHS[self.rung] - 1)
        self.steps = 0

    def begin(self) -> None:
        """Keep the average: the source's belongs to the server."""

    def gamma(self, drafted: Drafted) -> int:  # noqa: ARG002  (looks at outcomes only)
        """Return the present length."""
        return self.LENGTHS[self.rung]

    def observe(self, outcome: Outcome) -> None:
        """Update the average; at every fifth step, move."""
        self.average = (1 - self.FORGETTING) * self.average + self.FORGETTING * outcome.accepted
        self.steps += 1
        if self.steps > self.WARM_UP and (self.steps - self.WARM_UP) % self.INTERVAL == 0:
            self._move()

    def _move(self) -> None:
        while self.rung > 0 and self.average <= self.LENGTHS[self.rung - 1] - 0.5 + self.DOWN:
            self.rung -= 1
        while self.rung < len(self.LENGTHS) - 1 and self.average > self.LENGTHS[self.rung] - 0.5 + self.UP:
            self.rung += 1
