"""A bandit whose arms are speculation lengths."""

from __future__ import annotations

import math

from runtime.policies.policy import Drafted, Outcome
from runtime.policies.step_times import StepTimes


class Bandit:
    """UCB1 over the lengths 1 to 4: each twice in turn, then the highest mean reward + sqrt(2 ln t / plays).

    The reward is the step's tokens per millisecond, as a share of the most that any arm could reach.

    Source: BanditSpec (Hou 2025, arXiv 2505.15141), UCBSpec, and its code, `ucb_length_spec_generate`, whose arms,
    two warm-up rounds, reward and restart at every text these are. The code's bonus divides by all arms' plays and so
    never changes the choice; the bonus here is each arm's own (Auer 2002). The time is the measured step time.
    """

    name = "bandit"
    weighs_time = True
    ARMS = (1, 2, 3, 4)
    WARM_UP = 2 * len(ARMS)

    def __init__(self, times: StepTimes) -> None:
        self.step_ms = [times.step_ms(arm) for arm in self.ARMS]
        self.highest = max((arm + 1) / ms for arm, ms in zip(self.ARMS, self.step_ms, strict=True))
        self.begin()

    def begin(self) -> None:
        """Forget every arm."""
        self.plays = [0] * len(self.ARMS)
        self.rewards = [0.0] * len(self.ARMS)
        self.arm = 0

    def gamma(self, drafted: Drafted) -> int:  # noqa: ARG002  (looks at outcomes only)
        """Return the length of the arm in play."""
        return self.ARMS[self.arm]

    def observe(self, outcome: Outcome) -> None:
        """Reward the arm and draw the next."""
        self.plays[self.arm] += 1
        self.rewards[self.arm] += outcome.tokens / self.step_ms[self.arm] / self.highest
        played = sum(self.plays)
        self.arm = played % len(self.ARMS) if played < self.WARM_UP else self._best(played + 1)

    def _best(self, step: int) -> int:
        logarithm = 2 * math.log(step)
        bounds = [reward / n + math.sqrt(logarithm / n) for reward, n in zip(self.rewards, self.plays, strict=True)]
        return bounds.index(max(bounds))
