"""Greedy decoding step by step along a trace, with the live loop's own policy objects.

Under greedy decoding the text is the target's whatever the policy does, so a trace knows the outcome of every step
that any policy could take. As the live loop does, a step near the end drafts no token that could not be committed
(an end by the token budget; an output that ended by itself would draft on in its last step).

Where the loop drafts ahead (`StepTimes.ahead`), a step that might have drafted on is followed at once by the next one's
first draft forward. What the policy learns and first decides meanwhile costs nothing, as far as it takes no longer; if
it then drafts nothing, the forward was for nothing. Tokens that one answer asks for are drafted in a chain. Where a
policy has a rule, what it decides later in the step is foreseen on the device (`runtime.cuda.foresight`): that takes
the device's time, and the host's only as far as it outlasts a draft forward. Where the loop verifies spares and the
trace knows of them, the policy is asked for some, and the models wait. The host's own work, that of the loop, is in no
time but those of the calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from runtime.policies.policy import Drafted, Outcome, Policy
from runtime.policies.spares import chosen_spares
from runtime.policies.step_times import StepTimes
from runtime.replay.traces import LOOKAHEAD, Text

READING_S = min(-(time.thread_time() - time.thread_time()) for _ in range(1000))
"""Seconds that reading the clock takes by itself: half of what most policies take."""

Given = TypeVar("Given")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Run:
    """One text decoded under one policy."""

    task: str
    steps: list[Outcome]
    model_ms: float
    """Step times of all steps, and draft forwards that were begun for nothing."""
    policy_ms: float
    """Measured processor time of the policy's own decisions, on one thread, as far as models wait for it."""

    @property
    def tokens(self) -> int:
        """Committed tokens."""
        return sum(step.tokens for step in self.steps)


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
    steps: list[Outcome] = []
    position, pending = 0, 1
    policy.begin()
    clock = _Clock(times, rules=getattr(policy, "device_rule", lambda: None)() is not None)
    while position < text.positions:
        # The target adds a token of its own, so drafting the last one would be for nothing.
        limit = min(text.positions - position - 1, LOOKAHEAD)
        drafted, draft_ms = Drafted(), 0.0
        goal = min(clock.between(policy.gamma, drafted), limit)
        clock.begin_step(goal > 0 or not getattr(policy, "drafts_in_vain", True))
        while goal > drafted.count:
            draft_ms += clock.drafting_ms(goal - drafted.count, 1 if drafted.count else pending)
            drafted.tokens += text.rollouts[position][drafted.count : goal]
            goal = min(clock.within(policy.gamma, drafted), limit)
        gamma, spares = drafted.count, clock.spares(text, policy, drafted)
        verify_ms = times.verifying_ms(gamma, len(spares))
        outcome = step_outcome(text, position, gamma, draft_ms, verify_ms, spares)
        clock.end_step(outcome, might_draft=0 < gamma < limit)
        clock.learn(policy.observe, outcome)
        pending = outcome.unseen(pending)
        position += outcome.tokens
        steps.append(outcome)
    return Run(text.task, steps, clock.model_ms, clock.policy_ms + clock.between_ms)


class _Clock:
    """The milliseconds of a text: the models', and what of the policy's is not hidden behind them."""

    UNSEEN = 2
    """Tokens of a draft forward that is begun ahead: it cannot know yet whether it has to read one or two."""

    def __init__(self, times: StepTimes, rules: bool) -> None:
        self.model_ms = self.policy_ms = 0.0
        self.between_ms = 0.0
        """The policy's, since the last verification."""
        self._learning_ms = 0.0
        """Likewise, until it had learned from it: then its rule is there."""
        self._times = times
        self._answering_ms = max(times.foreseen - times.draft_ms(), 0.0) if rules and times.foreseen else None
        """The device's, for every token, where it answers in the policy's place."""
        self._ahead = self._foreseen = False

    def between(self, question: Callable[[Given], Answer], given: Given) -> Answer:
        """Ask what a policy is asked between a verification and a draft."""
        answer, milliseconds = _timed(question, given)
        self.between_ms += milliseconds
        return answer

    def learn(self, observe: Callable[[Outcome], None], outcome: Outcome) -> None:
        """Tell a policy of the step that was verified."""
        self.between(observe, outcome)
        self._learning_ms = self.between_ms

    def within(self, question: Callable[[Given], Answer], given: Given) -> Answer:
        """Ask what a policy is asked while a step drafts, and waits for the answer unless it is foreseen."""
        answer, milliseconds = _timed(question, given)
        self.policy_ms += max(milliseconds - self._times.draft_ms(), 0.0) if self._foreseen else milliseconds
        return answer

    def spares(self, text: Text, policy: Policy, drafted: Drafted) -> Sequence[int]:
        """Ask what a policy is asked between a draft and its verification, which waits for the answer."""
        choose = getattr(policy, "spares", None)
        if self._times.spare_ms is None or text.seconds is None or choose is None:
            return []
        places, milliseconds = _timed(partial(chosen_spares, choose), drafted)
        self.policy_ms += milliseconds
        return places

    def drafting_ms(self, tokens: int, pending: int) -> float:
        """Milliseconds of drafting as many tokens as one answer asked for, the first after `pending` new ones."""
        times = self._times
        chained = times.draft_ms() if times.chained is None else times.chained
        return times.draft_ms(pending) + (tokens - 1) * chained + tokens * (self._answering_ms or 0.0)

    def begin_step(self, drafts: bool) -> None:
        """Account for what passed since the last verification, now that it is known whether the step drafts."""
        hidden = self._times.draft_ms(self.UNSEEN) if self._ahead else 0.0
        # The device answers for a step if the policy has learned before the first token is there.
        self._foreseen = self._answering_ms is not None and (not self._ahead or self._learning_ms <= hidden)
        self.policy_ms += max(self.between_ms - hidden, 0.0)
        self.model_ms += 0.0 if drafts else hidden
        self.between_ms = 0.0

    def end_step(self, outcome: Outcome, might_draft: bool) -> None:
        """Account for a step; `might_draft` is whether the loop begins to draft the next one before it looks."""
        self.model_ms += outcome.draft_ms + outcome.verify_ms
        self._ahead = self._times.ahead and might_draft


def _timed(question: Callable[[Given], Answer], given: Given) -> tuple[Answer, float]:
    """Return the answer, and its milliseconds of processor time: what else the machine does is not the policy's."""
    start = time.thread_time()
    answer = question(given)
    return answer, max(time.thread_time() - start - READING_S, 0.0) * 1e3


def step_outcome(
    text: Text,
    position: int,
    gamma: int,
    draft_ms: float = math.nan,
    verify_ms: float = math.nan,
    spares: Collection[int] = (),
) -> Outcome:
    """Return what the live loop would know of the step: the draft has no distribution after its last token."""
    accepted = min(gamma, text.accepted[position])
    spared = accepted in spares and accepted < gamma and bool(text.seconds and text.seconds[position + accepted])
    last = text.verified_before(position + accepted + 1 + spared)
    distance = text.verified_before(position + accepted + 1).distance if accepted < gamma else math.nan
    return Outcome(
        gamma, accepted, last.entropy, last.top1, distance, draft_ms, verify_ms, spares=len(spares), spared=spared
    )
