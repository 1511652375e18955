from __future__ import annotations

import pytest

from integrations.vllm.times import EngineTimes
from runtime.errors import SpeckvError
from runtime.policies.step_times import StepTimes

TIMES = EngineTimes(2.0, {1: 10.0, 3: 14.0, 9: 20.0})


def test_a_target_forward_is_linear_between_and_beyond_what_was_measured() -> None:
    assert [TIMES.target(tokens) for tokens in (1, 2, 3, 6, 9)] == [10, 12, 14, 17, 20]
    assert TIMES.target(17) == 20 + 8 * 10 / 8  # the mean slope


def test_a_step_verifies_reads_and_writes() -> None:
    # Two requests of two tokens: verifies 6, the draft reads 8 and writes one more for both.
    verifying, reading, writing = TIMES.target(6), 2 * TIMES.target(8) / 10, 2 * TIMES.target(2) / 10
    assert TIMES.step(2, 2) == pytest.approx(verifying + reading + writing)
    assert TIMES.step(3, 0) == pytest.approx(TIMES.target(3) + 2 * TIMES.target(6) / 10)  # reads even so
    assert TIMES.plain(3) == 14


def test_a_call_costs_no_more_than_a_wider_one() -> None:
    times = EngineTimes(1.0, {1: 10.0, 5: 90.0, 9: 30.0})
    assert times.target(5) == 30
    assert times.measured[5] == 90  # handed on as measured


def test_a_profile_gives_the_draft_of_one_token() -> None:
    times = EngineTimes.of(StepTimes({1: 3.0, 2: 9.0}, {1: 5.0}))
    assert (times.draft_ms, times.measured) == (3, {1: 5.0})
    assert times.target(64) == 5  # one width: flat


@pytest.mark.parametrize(
    ("draft", "target"), [(0.0, {1: 1.0}), (1.0, {}), (1.0, {1: -1.0}), (1.0, {0: 1.0}), (float("nan"), {1: 1.0})]
)
def test_times_must_be_above_zero(draft: float, target: dict[int, float]) -> None:
    with pytest.raises(SpeckvError, match="above 0"):
        EngineTimes(draft, target)
