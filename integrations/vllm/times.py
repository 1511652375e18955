"""What a step of vLLM costs at any batch size, from step times that were measured one request at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.errors import SpeckvError
from runtime.policies.step_times import StepTimes


class EngineTimes:
    """Milliseconds of an engine step that verifies a batch and drafts for its next step.

    The engine scores `batch · (length + 1)` tokens in one target forward. Its draft model then reads what was verified
    and one token more a request in one forward, at every step, even when it is asked for no token at all (so that its
    cache stays complete), and writes every token after the first in a forward of its own.

    Between measured widths a target forward is linear, beyond the widest it goes on with the mean slope; a call is
    taken to cost no more than a wider one, since only the machine's other work makes it look so. A draft forward is
    measured on one token; on more it is taken to grow as the target's does.

    Args:
        draft_ms: one draft forward on one token.
        target_ms: tokens in the call → milliseconds of one target forward, one width at least.

    Raises:
        SpeckvError: if a number is not above 0.
    """

    def __init__(self, draft_ms: float, target_ms: Mapping[int, float]) -> None:
        if not target_ms or not all(number > 0 for number in (draft_ms, *target_ms, *target_ms.values())):
            raise SpeckvError("step times of vLLM: widths and milliseconds must be above 0: make the plan anew")
        self.draft_ms = draft_ms
        self.measured = dict(sorted(target_ms.items()))
        self.widest = max(self.measured)
        """Tokens of the widest measured target forward."""
        self._widths = list(self.measured)
        self._ms = np.minimum.accumulate(list(self.measured.values())[::-1])[::-1].tolist()
        rise = self._ms[-1] - self._ms[0]
        self._slope = rise / (self.widest - self._widths[0]) if rise else 0.0
        self._steps: dict[tuple[int, int], float] = {}

    @classmethod
    def of(cls, times: StepTimes) -> EngineTimes:
        """Return the engine's times for the step times of a profile."""
        return cls(times.draft_ms(), times.target)

    def target(self, tokens: int) -> float:
        """Milliseconds of one target forward on `tokens` ≥ 1."""
        beyond = max(tokens - self.widest, 0)
        return float(np.interp(tokens, self._widths, self._ms)) + beyond * self._slope

    def draft(self, tokens: int) -> float:
        """Milliseconds of one draft forward on `tokens` ≥ 1."""
        return self.draft_ms * self.target(tokens) / self.target(1)

    def step(self, batch: int, length: int) -> float:
        """Milliseconds of a step at which each of `batch` requests verifies, and then drafts, `length` ≥ 0 tokens."""
        if (batch, length) not in self._steps:  # asked for at every step of the engine
            drafting = self.draft(batch * (length + 2)) + max(length - 1, 0) * self.draft(batch)
            self._steps[batch, length] = self.target(batch * (length + 1)) + drafting
        return self._steps[batch, length]

    def plain(self, batch: int) -> float:
        """Milliseconds of a step of the engine without a draft model."""
        return self.target(batch)
