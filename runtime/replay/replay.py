"""Greedy decoding step by step along a trace, with the live loop's own policy objects.

Under greedy decoding the text is the target's whatever the policy does, so a trace knows the outcome of every step
that any policy could take. As the live loop does, a step near the end drafts no token that could not be committed
(an end by the token budget; an output that ended by itself would draft on in its last step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.policies.policy import Drafted, Outcome, Policy, TokenSignals
from runtime.policies.step_times import StepTimes
from runtime.replay.traces import LOOKAHEAD, Text


@dataclass(frozen=True)
class Run:
    """One text decoded under one policy."""

    task: str
    steps: list[Outcome]
    model_ms: float
    """Step times of all steps."""
    policy_ms: float
    """Measured processor time of the policy's own decisions, on one thread."""

    @property
    def tokens(self) -> int:
        """Committed tokens: the accepted ones and one of the target's own a step."""
        return sum(step.accepted + 1 for step in self.steps)


def replay(
    texts: Sequence[Text], policy: Policy, times: StepTimes, progress: Callable[[], None] = lambda: None
) -> list[Run]:
    """Decode the texts in order under one policy.

    Args:
        texts: the traces.
        policy: asked and told exactly as in the live loop.
        times: what a step costs.
        progress: called after every text.
    """
    runs = []
    for text in texts:
        runs.append(_decode(text, policy, times))
        progress()
    return runs


def _decode(text: Text, policy: Policy, times: StepTimes) -> Run:
    clock = time.thread_time  # processor time: what else the machine does is not the policy's
    steps: list[Outcome] = []
    model_ms = policy_seconds = 0.0
    position, pending = 0, 1
    policy.begin()
    while position < text.positions:
        # The target adds a token of its own, so drafting the last one would be for nothing.
        limit = min(text.positions - position - 1, LOOKAHEAD)
        start = clock()
        gamma = _draft(policy, text.rollouts[position], limit)
        policy_seconds += clock() - start
        outcome = step_outcome(text, position, gamma, times, pending)
        start = clock()
        policy.observe(outcome)
        policy_seconds += clock() - start
        model_ms += outcome.draft_ms + outcome.verify_ms
        # The draft has seen all but the last committed token, and never its own last one.
        pending = (pending if gamma == 0 else int(outcome.accepted == gamma)) + 1
        position += outcome.accepted + 1
        steps.append(outcome)
    return Run(text.task, steps, model_ms, policy_seconds * 1e3)


def step_outcome(text: Text, position: int, gamma: int, times: StepTimes, pending: int) -> Outcome:
    """Return what the live loop would know of the step: the draft has no distribution after its last token."""
    accepted = min(gamma, text.accepted[position])
    verified = text.verified_before(position + accepted + 1)
    return Outcome(
        gamma,
        accepted,
        verified.entropy,
        verified.top1,
        verified.distance if accepted < gamma else math.nan,
        draft_ms=times.drafting_ms(gamma, pending),
        verify_ms=times.target_ms(gamma + 1),
    )


def _draft(policy: Policy, rollout: list[TokenSignals], limit: int) -> int:
    """Return how many tokens the policy drafts: the live loop's propose phase, reading instead of computing."""
    drafted = Drafted()
    while (goal := min(policy.gamma(drafted), limit)) > drafted.count:
        drafted.tokens += rollout[drafted.count : goal]
    return drafted.count
