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
        found = (place + 0.5) / BINS  # within a bin, the price is that of its lower end
        expected = rates(times, place / BINS)
        assert price.rate(found) == pytest.approx(max(expected), rel=1e-9)
        assert expected[price.length(found)] == pytest.approx(max(expected), rel=1e-9)


@given(step_times)
def test_a_better_draft_never_lowers_the_rate_or_the_length(times: StepTimes) -> None:
    price = Price(times)
    probabilities = [place / 500 for place in range(501)]
    found = [price.rate(p) for p in probabilities]
    lengths = [price.length(p) for p in probabilities]
    assert found == sorted(found)
    assert lengths == sorted(lengths)
    assert min(found) >= 1 / times.step_ms(0)  # plain decoding is always to be had
    assert all(0 <= length <= LONGEST for length in lengths)


def test_the_length_is_0_where_nothing_pays() -> None:
    price = Price(StepTimes({1: 1.0}, {1: 4.0, 17: 20.0}))  # a step of gamma costs 4 + 2 gamma
    # One token more for 2 ms pays where 1 + b > 6 / 4.
    assert [price.length(b) for b in (0.0, 0.3, 0.49)] == [0, 0, 0]
    assert price.length(0.51) == 1
    assert price.rate(0.3) == price.rate(0.0) == 1 / 4
    assert Price(StepTimes({1: 100.0}, {1: 1.0})).length(1.0) == 0


def test_a_draft_that_is_always_right_is_followed_to_the_longest() -> None:
    assert Price(TIMES).length(1.0) == LONGEST
    assert Price(TIMES).rate(1.0) <= (LONGEST + 1) / TIMES.step_ms(LONGEST)


@given(st.floats(0.1, 10))
def test_another_unit_of_time_changes_no_length(factor: float) -> None:
    def scaled(times: dict[int, float]) -> dict[int, float]:
        return {width: factor * value for width, value in times.items()}

    one, other = Price(TIMES), Price(StepTimes(scaled(TIMES.draft), scaled(TIMES.target)))
    for b in (0.0, 0.2, 0.51, 0.77, 0.9, 1.0):
        assert other.rate(b) == pytest.approx(one.rate(b) / factor)
        assert other.length(b) == one.length(b)
