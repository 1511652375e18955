from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.vllm.controller import Controller, MeasuredSteps
from integrations.vllm.times import EngineTimes
from runtime.policies.policy import Outcome
from runtime.policies.step_times import StepTimes
from runtime.policies.throughput import Throughput

FLAT = EngineTimes(1.0, {1: 20.0, 257: 20.0})
"""A wide verification costs nothing: drafting pays."""
STEEP = EngineTimes(1.0, {1: 20.0, 257: 20.0 * 257})
"""Every verified token costs a plain step: drafting never pays."""


def feed(controller: Controller, request: str, outcomes: list[tuple[int, int]]) -> None:
    for drafted, accepted in outcomes:
        controller.observe(request, drafted, accepted)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), st.integers(1, 8), st.floats(0.1, 30.0))
@settings(deadline=None)
def test_the_length_of_the_most_tokens_per_millisecond(rates: list[float], longest: int, draft_ms: float) -> None:
    controller = Controller(EngineTimes(draft_ms, {1: 20.0, 9: 30.0, 65: 90.0}), longest, 0.5)
    names = [f"request {i}" for i in range(len(rates))]
    controller.length(names)
    for name, rate in zip(names, rates, strict=True):
        controller.requests[name].accepted, controller.requests[name].verified = rate, 1.0
    controller.budget_ms = -1e9  # no trials

    def value(length: int) -> float:
        tokens = sum(sum(rate**n for n in range(length + 1)) for rate in rates)
        return tokens / controller.steps.step(len(rates), length)

    chosen = controller.length(names)
    assert value(chosen) == pytest.approx(max(map(value, range(longest + 1))))


def test_agreement_lengthens_and_disagreement_shortens() -> None:
    controller = Controller(FLAT, 8, 0.7)
    before = controller.length(["a"])
    feed(controller, "a", [(4, 4)] * 30)
    assert controller.length(["a"]) == 8
    feed(controller, "a", [(8, 0)] * 60)
    assert controller.length(["a"]) < before < 8


def test_every_request_of_the_batch_counts_and_a_new_one_begins_at_the_rate_of_all() -> None:
    controller = Controller(FLAT, 8, 0.7)
    controller.length(["good", "bad"])
    feed(controller, "good", [(8, 8)] * 40)
    alone = controller.length(["good"])
    feed(controller, "bad", [(8, 0)] * 200)
    assert controller.length(["good", "bad", "bad"]) <= alone
    assert controller.length(["good"]) == alone  # the other's failures are not its own
    controller.length(["new"])
    assert controller.requests["new"].rate == pytest.approx(controller.overall.rate)


def test_finished_requests_are_forgotten_and_do_not_come_back() -> None:
    controller = Controller(FLAT, 8, 0.7)
    controller.length(["a", "b"])
    controller.forget(["a", "never seen"])
    controller.observe("a", 4, 4)  # a step that was in flight
    assert set(controller.requests) == {"b"}
    assert controller.overall.rate > 0.7


def test_acceptance_is_that_of_the_throughput_policy() -> None:
    chooser = random.Random(0)
    policy = Throughput(StepTimes({1: 1.0}, {1: 5.0}))
    controller = Controller(FLAT, 8, policy.FIRST_RATE)
    controller.length(["a"])
    for _ in range(50):
        drafted = chooser.randint(1, 8)
        accepted = chooser.randint(0, drafted)
        policy.observe(Outcome(drafted, accepted))
        controller.observe("a", drafted, accepted)
        assert controller.requests["a"].rate == policy.accepted / policy.verified


def test_trials_take_one_percent_of_the_time() -> None:
    controller = Controller(STEEP, 4, 0.3)
    lengths = [controller.length(["a"]) for _ in range(20_000)]
    assert set(lengths) == {0, 1}
    spent = sum(STEEP.step(1, length) for length in lengths)
    needed = (20_000 + sum(0.3 for length in lengths if length)) * STEEP.step(1, 0)
    assert 0.005 < spent / needed - 1 < 0.011


def test_a_pair_that_agrees_again_is_found_again() -> None:
    controller = Controller(EngineTimes(1.0, {1: 20.0, 2: 24.0, 9: 30.0}), 4, 0.01)
    for _ in range(3_000):
        length = controller.length(["a"])
        if length:
            controller.observe("a", length, length)
    assert controller.length(["a"]) > 1


def test_measured_steps_correct_expected_ones() -> None:
    steps = MeasuredSteps(FLAT)
    for _ in range(4):
        steps.observe(1, 4, 3 * FLAT.step(1, 4))
    assert steps.step(1, 4) == steps.step(1, 2) / FLAT.step(1, 2) * FLAT.step(1, 4)  # too few: all alike
    for _ in range(4):
        steps.observe(1, 2, FLAT.step(1, 2))
        steps.observe(1, 4, 3 * FLAT.step(1, 4))
    steps.observe(1, 2, FLAT.step(1, 2))
    assert steps.step(1, 4) == pytest.approx(3 * FLAT.step(1, 4))
    assert steps.step(1, 2) == pytest.approx(FLAT.step(1, 2))
    steps.observe(1, 2, 1000 * FLAT.step(1, 2))
    assert steps.step(1, 2) == pytest.approx(FLAT.step(1, 2))  # one outlier


def test_a_length_that_turns_out_slow_is_left() -> None:
    controller = Controller(FLAT, 4, 0.8)
    assert controller.length(["a"]) == 4
    for _ in range(5):
        controller.steps.observe(1, 3, FLAT.step(1, 3))
    for _ in range(30):
        length = controller.length(["a"])
        controller.steps.observe(1, length, FLAT.step(1, length) * (10 if length == 4 else 1))
    assert controller.length(["a"]) == 3
