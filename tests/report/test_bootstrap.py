"""The paired bootstrap on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runtime.policies.policy import Outcome
from runtime.replay.replay import Run
from runtime.report.bootstrap import Resamples


def run(tokens: int, milliseconds: float, policy_ms: float = 0.0) -> Run:
    return Run("code", [Outcome(tokens, tokens - 1)], milliseconds, policy_ms)


def test_equal_prompts_leave_nothing_to_chance() -> None:
    rate = Resamples(7).rate([run(10, 15, policy_ms=5)] * 7)
    assert (rate.value, rate.low, rate.high) == pytest.approx((500, 500, 500))


def test_the_ratio_is_paired() -> None:
    """Prompts that differ tenfold, a policy that is a quarter faster on each: no doubt about the ratio."""
    slow = [run(10, 20 * (1 + index)) for index in range(10)]
    fast = [run(10, 16 * (1 + index)) for index in range(10)]
    resamples = Resamples(10)
    ratio = resamples.ratio(fast, slow)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.25, 1.25, 1.25))
    rate = resamples.rate(fast)
    assert rate.low < 0.9 * rate.value < 1.1 * rate.value < rate.high


def test_the_interval_is_that_of_the_mean() -> None:
    """With equal time per prompt the rate is a mean of tokens, whose normal interval is known."""
    generator = np.random.default_rng(1)
    tokens = generator.poisson(100, size=400)
    rate = Resamples(400).rate([run(int(count), 1000) for count in tokens])
    half = 1.96 * tokens.std() / math.sqrt(400)
    assert rate.value == pytest.approx(tokens.mean())
    assert (rate.low, rate.high) == pytest.approx((tokens.mean() - half, tokens.mean() + half), abs=0.1)


def test_long_texts_weigh_more() -> None:
    assert Resamples(2).rate([run(90, 100), run(10, 900)]).value == pytest.approx(100)


def test_the_same_prompts_give_the_same_interval() -> None:
    runs = [run(5 + index, 10) for index in range(9)]
    assert Resamples(9).rate(runs) == Resamples(9).rate(runs)
