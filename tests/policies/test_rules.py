"""Each rule's arithmetic against numbers worked out by hand from its source."""

from __future__ import annotations

import math

import pytest

from runtime import GammaSelector
from runtime.policies.adaedl import AdaEDL
from runtime.policies.bandit import Bandit
from runtime.policies.confidence import Confidence
from runtime.policies.heuristic import Heuristic
from runtime.policies.moving_average import MovingAverage
from runtime.policies.policy import Drafted, Outcome, Policy, TokenSignals
from runtime.policies.specdec import SpecDecPlusPlus
from runtime.policies.speckv_cost import SpecKVCost
from runtime.policies.step_times import StepTimes
from runtime.policies.svip import SVIP
from runtime.policies.throughput import Throughput

TIMES = StepTimes({1: 1.0}, {1: 4.0, 17: 20.0})  # a step of gamma costs gamma + 4 + gamma = 4 + 2 gamma


def drafted(*top1: float) -> Drafted:
    return Drafted([TokenSignals(0.0, p, 0.0) for p in top1])


def with_entropy(*nats: float) -> Drafted:
    return Drafted([TokenSignals(h / math.log(2), 0.5, 0.0) for h in nats])


def stops(policy: Policy, tokens: Drafted) -> bool:
    return policy.gamma(tokens) <= tokens.count


def test_confidence_stops_below_its_threshold_and_at_twenty() -> None:
    policy = Confidence()
    assert not stops(policy, drafted())
    assert not stops(policy, drafted(0.1, 0.4))  # only the last token counts, and 0.4 is not below 0.4
    assert stops(policy, drafted(0.9, 0.39))
    assert not stops(policy, drafted(*[0.9] * 19))
    assert stops(policy, drafted(*[0.9] * 20))


def test_svip_stops_above_sqrt_of_015_nats() -> None:
    # sqrt(0.15 H) = 0.3 at H = 0.6 nats.
    assert not stops(SVIP(), with_entropy(5.0, 0.599))
    assert stops(SVIP(), with_entropy(0.0, 0.601))
    assert stops(SVIP(0.2), with_entropy(0.27))  # 0.04 / 0.15 = 0.2667


def test_adaedl_stops_below_the_bound() -> None:
    # 1 − sqrt(0.2 H) = 0.5 at H = 1.25 nats.
    assert not stops(AdaEDL(), with_entropy(1.249))
    assert stops(AdaEDL(), with_entropy(1.251))


def test_adaedl_threshold_follows_the_acceptance_rate() -> None:
    policy = AdaEDL(0.5)
    policy.observe(Outcome(4, 2))  # AR = 0.45 + 0.25 = 0.7 < 0.9: λ' = 0.51
    assert policy.threshold == pytest.approx(0.9 * 0.5 + 0.1 * 0.51)
    policy.observe(Outcome(0, 0))  # nothing drafted, nothing learnt
    assert policy.threshold == pytest.approx(0.501)
    for _ in range(5):
        policy.observe(Outcome(4, 4))  # AR = 0.85, 0.925, …: one more rise, then it stays
    assert policy.threshold == pytest.approx(0.502)
    policy.observe(Outcome(100, 99))  # AR above 0.9, but not all accepted: it falls
    assert policy.threshold == pytest.approx(0.501)
    policy.begin()
    assert policy.threshold == 0.5


def test_specdec_stops_when_a_rejection_is_likely() -> None:
    policy = SpecDecPlusPlus()
    assert not stops(policy, drafted(0.1))  # two tokens at least
    assert not stops(policy, drafted(0.6, 0.6))  # 1 − 0.36 = 0.64
    assert stops(policy, drafted(0.6, 0.6, 0.8))  # 1 − 0.288 = 0.712


def test_heuristic_adds_two_or_takes_one() -> None:
    policy = Heuristic()
    lengths = []
    for outcome in (Outcome(5, 5), Outcome(7, 6), *[Outcome(4, 0)] * 6):
        policy.observe(outcome)
        lengths.append(policy.gamma(Drafted()))
    assert lengths == [7, 6, 5, 4, 3, 2, 1, 1]
    policy.begin()
    assert policy.gamma(Drafted()) == 1  # persists over texts


def test_moving_average_moves_every_fifth_step_after_ten() -> None:
    policy = MovingAverage()
    for step in range(14):
        policy.observe(Outcome(3, 3))
        assert policy.gamma(Drafted()) == 3, step
    policy.observe(Outcome(3, 3))  # step 15: average 3 − 0.8^15 = 2.965 > 2.5
    assert policy.gamma(Drafted()) == 7
    for _ in range(5):
        policy.observe(Outcome(7, 2))  # 2 + 0.965 · 0.8^5 = 2.316 ≤ 2.25? no
    assert policy.gamma(Drafted()) == 7
    for _ in range(5):
        policy.observe(Outcome(7, 2))  # 2.104 ≤ 2.25: down to 3; 2.104 > 0.25 and ≤ 2.5: stays there
    assert policy.gamma(Drafted()) == 3
    for _ in range(10):
        policy.observe(Outcome(3, 0))  # 2.104 · 0.8^10 = 0.226 ≤ 0.25
    assert policy.gamma(Drafted()) == 1


def test_throughput_is_the_argmax_of_expected_tokens_over_time() -> None:
    policy = Throughput(TIMES)
    # α = 0.7: tokens 1.7, 2.19, 2.533, 2.7731 over 6, 8, 10, 12 ms: 0.2833 is the highest.
    assert policy.gamma(Drafted()) == 1
    for _ in range(200):
        policy.observe(Outcome(4, 4))
    # α → 1 as (2.8 · 0.95^n + …) → 1: (gamma + 1) / (4 + 2 gamma) rises to gamma 8.
    assert policy.gamma(Drafted()) == 8
    policy.begin()
    assert (policy.accepted, policy.verified) == (pytest.approx(2.8), 4.0)
    policy.observe(Outcome(4, 1))  # one accepted, one rejected, two never judged
    assert policy.accepted / policy.verified == pytest.approx((0.95 * 2.8 + 1) / (0.95 * 4 + 2))


def test_bandit_plays_each_arm_twice_then_by_upper_confidence() -> None:
    policy = Bandit(TIMES)
    played = []
    for _ in range(8):
        arm = policy.gamma(Drafted())
        played.append(arm)
        policy.observe(Outcome(arm, arm if arm == 3 else 0))
    assert played == [1, 2, 3, 4, 1, 2, 3, 4]
    # Rewards over the highest, 5 tokens in 12 ms: arm 3 has 4/10 · 12/5 = 0.96, the others 1/6, 1/8 and 1/12 · 12/5.
    assert policy.rewards[2] / 2 == pytest.approx(0.96)
    assert policy.gamma(Drafted()) == 3
    for _ in range(100):
        policy.observe(Outcome(policy.gamma(Drafted()), 0))
    assert min(policy.plays) > 2  # no arm is given up for good
    policy.begin()
    assert policy.gamma(Drafted()) == 1


def test_speckv_cost_is_the_selector_with_the_times_of_its_candidates() -> None:
    selector = GammaSelector()
    policy = SpecKVCost(selector, "nf4", TIMES)
    assert policy.step_cost == [8.0, 12.0, 16.0, 20.0]
    assert policy.gamma(Drafted()) == policy.gamma(drafted(0.5)) == 2
    sure, unsure = drafted(0.99, 0.99), Drafted([TokenSignals(6.0, 0.05, 0.04)] * 2)
    for tokens in (sure, unsure):
        choice = selector.select(tokens.signals(), "nf4", (2, 4, 6, 8), [8.0, 12.0, 16.0, 20.0]).gamma
        assert policy.gamma(tokens) == min(choice, 3)
    assert stops(policy, unsure)
    free = SpecKVCost(selector, "nf4", StepTimes({1: 1e-6}, {1: 4.0}))  # drafting costs nothing: the published choice
    assert free.gamma(sure) == min(3, selector.select(sure.signals(), "nf4").gamma)
