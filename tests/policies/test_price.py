"""What a token is worth, against a brute-force maximum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.policies.price import BINS, LONGEST, Price
from runtime.policies.step_times import StepTimes
from tests.replay.tiny import TIMES

milliseconds = st.floats(0.01, 200)
step_times = st.builds(
    StepTimes,
    st.dictionaries(st.sampled_from([1, 2]), milliseconds, min_size=1),
    st.dictionaries(st.integers(1, 17), milliseconds, min_size=1),
)
"""Any times: wider calls may well be the faster ones."""


def rates(times: StepTimes, probability: float) -> list[float]:
    """Tokens per millisecond of every gamma: 1 + b + … + b^gamma tokens a step."""
    tokens = np.cumsum(probability ** np.arange(LONGEST + 1))
    return [float(tokens[gamma]) / times.step_ms(gamma) for gamma in range(LONGEST + 1)]


@given(step_times)
def test_it_is_the_brute_force_maximum(times: StepTimes) -> None:
    price = Price(times)
    for place in (*range(0, BINS, 11), BINS - 1):
        found, b = (place + 0.5) / BINS, place / BINS  # within a bin, b counts as its lower end
        expected = rates(times, b)
        assert expected[price.length(found)] == pytest.approx(max(expected), rel=1e-9)
        for drafted in (1, 2, 7, LONGEST - 1):
            more = range(drafted + 1, LONGEST + 1)
            tokens = [sum(b**k for k in range(gamma - drafted)) for gamma in more]
            took_ms = [times.step_ms(gamma) - times.step_ms(drafted) for gamma in more]
            least = min(max(expected) * ms / count for ms, count in zip(took_ms, tokens, strict=True))
            assert price.least(drafted, found) == pytest.approx(least, rel=1e-9, abs=1e-9)


@given(step_times)
def test_a_better_draft_never_lowers_the_length(times: StepTimes) -> None:
    price = Price(times)
    lengths = [price.length(place / 500) for place in range(501)]
    assert lengths == sorted(lengths)
    assert all(0 <= length <= LONGEST for length in lengths)


def test_tokens_that_pay_together_pay_before_they_do_alone() -> None:
    # Verification grows dearer up to four tokens and not beyond, as kernels of a fixed width have it.
    price = Price(StepTimes({1: 1.0}, {1: 4.0, 2: 4.0, 5: 10.0}))
    # At b = 0.99: 16 tokens in 26 ms and on to R = 0.606; the second token takes 3 ms, 15 more take 21.
    rate = sum(0.99**k for k in range(17)) / 26
    assert price.least(1, 0.99) == pytest.approx(rate * 21 / sum(0.99**k for k in range(15)))
    assert price.least(1, 0.99) < 0.99 < 3 * rate


def test_the_length_is_0_where_nothing_pays() -> None:
    price = Price(StepTimes({1: 1.0}, {1: 4.0, 17: 20.0}))  # a step of gamma costs 4 + 2 gamma
    # One token more for 2 ms pays where 1 + b > 6 / 4.
    assert [price.length(b) for b in (0.0, 0.3, 0.49)] == [0, 0, 0]
    assert price.length(0.51) == 1
    assert Price(StepTimes({1: 100.0}, {1: 1.0})).length(1.0) == 0


def test_a_draft_that_is_always_right_is_followed_to_the_longest() -> None:
    assert Price(TIMES).length(1.0) == LONGEST
    assert all(Price(TIMES).least(drafted, 1.0) < 1 for drafted in range(1, LONGEST))


@given(st.floats(0.1, 10))
def test_another_unit_of_time_changes_nothing(factor: float) -> None:
    def scaled(times: dict[int, float]) -> dict[int, float]:
        return {width: factor * value for width, value in times.items()}

    one, other = Price(TIMES), Price(StepTimes(scaled(TIMES.draft), scaled(TIMES.target)))
    for b in (0.0, 0.2, 0.52, 0.77, 0.9, 1.0):
        assert other.length(b) == one.length(b)
        assert [other.least(n, b) for n in (1, 5)] == pytest.approx([one.least(n, b) for n in (1, 5)])
