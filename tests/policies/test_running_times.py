"""Step times that follow the machine: lasting changes, single outliers, one model alone."""

from __future__ import annotations

import math
import random

import pytest

from runtime.policies.fixed import Fixed
from runtime.policies.policy import Outcome
from runtime.policies.step_times import RunningTimes, StepTimes
from runtime.replay.replay import replay
from tests.replay.tiny import TIMES, random_texts


def step(gamma: int, draft: float = 1.0, target: float = 1.0, pending: int = 1) -> Outcome:
    """A step on a machine whose draft and target are slower than `TIMES` by these factors."""
    draft_ms, verify_ms = TIMES.drafting_ms(gamma, pending), TIMES.target_ms(gamma + 1)
    return Outcome(gamma, 0, draft_ms=draft * draft_ms, verify_ms=target * verify_ms)


def test_before_anything_is_observed_the_times_are_those_given() -> None:
    times = RunningTimes(TIMES)
    for gamma in (0, 1, 5, 16):
        assert times.step_ms(gamma, 2) == TIMES.step_ms(gamma, 2)
    assert (times.draft_ms(2), times.target_ms(9)) == (TIMES.draft_ms(2), TIMES.target_ms(9))


def test_a_machine_three_times_slower_is_followed_within_twenty_noisy_steps() -> None:
    noise, times = random.Random(0), RunningTimes(TIMES)
    for _ in range(100):
        times.observe(step(noise.randint(0, 8), noise.uniform(0.9, 1.1), noise.uniform(0.9, 1.1)))
    assert times.step_ms(4) == pytest.approx(TIMES.step_ms(4), rel=0.05)
    for _ in range(20):
        times.observe(step(noise.randint(1, 8), 3 * noise.uniform(0.9, 1.1), 3 * noise.uniform(0.9, 1.1)))
    assert (times.draft_scale, times.target_scale) == pytest.approx((3, 3), rel=0.1)
    assert times.step_ms(4, 2) == pytest.approx(3 * TIMES.step_ms(4, 2), rel=0.1)
    for _ in range(20):  # and back
        times.observe(step(4))
    assert times.step_ms(4) == pytest.approx(TIMES.step_ms(4), rel=0.1)


@pytest.mark.parametrize("before", [0, 3, 50])
def test_a_single_step_fifty_times_longer_barely_moves_them(before: int) -> None:
    noise, times = random.Random(1), RunningTimes(TIMES)
    for _ in range(before):
        times.observe(step(3, noise.uniform(0.95, 1.05), noise.uniform(0.95, 1.05)))
    known = times.step_ms(3)
    times.observe(step(3, 50, 50))
    assert times.step_ms(3) == pytest.approx(known, rel=0.02)


def test_only_the_draft_slows() -> None:
    times = RunningTimes(TIMES)
    for gamma in [1, 2, 8] * 7:
        times.observe(step(gamma, draft=2, pending=2), pending=2)
    assert (times.draft_scale, times.target_scale) == pytest.approx((2, 1))
    assert times.step_ms(3) == pytest.approx(2 * TIMES.drafting_ms(3) + TIMES.target_ms(4))


def test_what_is_unknown_or_was_never_measured_teaches_nothing() -> None:
    times = RunningTimes(TIMES)
    for _ in range(50):
        times.observe(Outcome(3, 1))
        times.observe(Outcome(3, 1, draft_ms=math.nan, verify_ms=math.nan))
        times.observe(Outcome(0, 0, draft_ms=99.0))  # nothing was drafted: not the draft's time
        times.observe(Outcome(3, 1, draft_ms=99.0), pending=3)
        times.observe(Outcome(17, 1, verify_ms=999.0))
    assert (times.draft_scale, times.target_scale) == (1, 1)


def test_in_a_replay_they_stay_what_they_are() -> None:
    class Follower(Fixed):
        def __init__(self) -> None:
            super().__init__(3)
            self.times = RunningTimes(TIMES)

        def begin(self) -> None:
            self.pending = 1

        def observe(self, outcome: Outcome) -> None:
            self.times.observe(outcome, self.pending)
            self.pending = (int(outcome.accepted == outcome.gamma) if outcome.gamma else self.pending) + 1

    policy = Follower()
    replay(random_texts(4), policy, TIMES)
    assert (policy.times.draft_scale, policy.times.target_scale) == pytest.approx((1, 1), rel=1e-12)


def test_a_call_with_spares_is_as_wide_as_all_its_tokens_and_a_little_longer() -> None:
    known = StepTimes(TIMES.draft, TIMES.target, spare_ms=2.0)
    times = RunningTimes(known)
    for _ in range(30):
        times.observe(Outcome(3, 0, draft_ms=1.0, verify_ms=known.target_ms(6) + 2.0, spares=2))
    assert times.target_scale == 1
    narrow = RunningTimes(StepTimes(TIMES.draft, {1: 4.0, 5: 8.0}, spare_ms=0.0))
    for _ in range(30):
        narrow.observe(Outcome(4, 0, draft_ms=1.0, verify_ms=80.0, spares=2))
    assert narrow.target_scale == 1  # seven tokens were never measured
