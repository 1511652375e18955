"""The features of past verifications against a computation over the whole sequence of verified tokens."""

from __future__ import annotations

import math
import pickle
import random
import time
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.policies.policy import Outcome, TokenSignals
from runtime.stopper import history
from runtime.stopper.history import LONG, MIDDLE, NAMES, PAIR, SHORT, History, logit

Step = tuple[list[TokenSignals], Outcome]
Floats = NDArray[np.float64]

OF_THE_PAIR = {"accepted_pair", "surplus_long", "distance_long"}
BEGUN_FROM_THE_PAIR = {"accepted_short", "accepted_middle", "accepted_long", "surplus_middle", "distance_short"}


def average(weight: float, start: float, values: Sequence[float] | Floats) -> float:
    """The exponential moving average in closed form."""
    ages = np.arange(len(values))[::-1]
    return float((1 - weight) ** len(values) * start + weight * ((1 - weight) ** ages) @ np.asarray(values, float))


def averages(weight: float, start: float, values: Floats) -> Floats:
    """`[n + 1]`: the average before anything and after each value."""
    return np.array([average(weight, start, values[:count]) for count in range(len(values) + 1)])


def slow_features(texts: Sequence[Sequence[Step]]) -> dict[str, float]:
    """The features after the last text's steps, from all of them at once."""
    pair, surplus, distance = history.FIRST_RATE, 0.0, history.USUAL_DISTANCE
    for steps in texts:
        # One event for each verified token, and one for each plain step.
        events = [(step, place) for step in steps for place in range(max(1, verified(step)))]
        plain = np.array([step[1].gamma == 0 for step, _ in events], bool)
        tokens = [None if step[1].gamma == 0 else step[0][place] for step, place in events]
        stands = np.array([place < step[1].accepted for step, place in events], float)
        over = stands - [token.top1 if token else 0.0 for token in tokens]
        # A plain step pulls an average to where the next slower one was before it.
        slowest = averages(PAIR, pair, stands[~plain])[np.r_[0, np.cumsum(~plain)].astype(int)]
        long = averages(LONG, pair, np.where(plain, slowest[:-1], stands))
        middle = averages(MIDDLE, pair, np.where(plain, long[:-1], stands))
        short = averages(SHORT, pair, np.where(plain, middle[:-1], stands))
        surplus_long = averages(LONG, surplus, over[~plain])[np.r_[0, np.cumsum(~plain)].astype(int)]
        surplus_middle = averages(MIDDLE, surplus, np.where(plain, surplus_long[:-1], over))
        outcomes = [outcome for _, outcome in steps]
        distances = [outcome.distance for outcome in outcomes if not math.isnan(outcome.distance)]
        entropies = [outcome.target_entropy for outcome in outcomes if not math.isnan(outcome.target_entropy)]
        result = {
            "accepted_short": short[-1],
            "accepted_middle": middle[-1],
            "accepted_long": long[-1],
            "accepted_pair": slowest[-1],
            "surplus_middle": surplus_middle[-1],
            "surplus_long": surplus_long[-1],
            "entropy_short": average(SHORT, history.USUAL_ENTROPY, [token.entropy for token in tokens if token]),
            "log_position": math.log(1 + sum(outcome.accepted + 1 for outcome in outcomes)),
            "distance_short": average(SHORT, distance, distances),
            "distance_long": average(LONG, distance, distances),
            **last_step(steps),
        }
        entropy = average(SHORT, history.USUAL_TARGET_ENTROPY, entropies)
        result["target_entropy_short"] = entropy if result["target_known"] else 0.0
        pair, surplus, distance = slowest[-1], surplus_long[-1], result["distance_long"]
    return result


def verified(step: Step) -> int:
    return min(step[1].accepted + 1, step[1].gamma)


def last_step(steps: Sequence[Step]) -> dict[str, float]:
    """The features that look at the last step, and at steps in a row."""
    drafting = [outcome for _, outcome in steps if outcome.gamma] or [Outcome(3, 2)]
    whole = [outcome.gamma > 0 and outcome.accepted == outcome.gamma for _, outcome in steps]
    row = steps[len(whole) - whole[::-1].index(False) :] if False in whole else steps
    # The tokens accepted before the first rejected one of a step do not count: the run ends with the rejection.
    tokens, last = steps[-1] if steps else ([], Outcome(3, 3))
    rejected = tokens[last.accepted] if last.accepted < last.gamma else None
    known = bool(steps) and not math.isnan(last.target_entropy + last.target_top1)
    apart = bool(steps) and not math.isnan(last.distance)
    plain = [outcome.gamma == 0 for _, outcome in steps]
    return {
        "log_run": math.log(1 + sum(outcome.accepted for _, outcome in row)),
        "was_rejected": float(rejected is not None),
        "was_all_accepted": float(bool(steps) and whole[-1]),
        "was_plain": float(bool(steps) and not last.gamma),
        "rejected_entropy": rejected.entropy if rejected else 0,
        "rejected_logit": slow_logit(rejected.top1) if rejected else 0,
        "last_accepted": min(drafting[-1].accepted, 8),
        "last_gamma": min(drafting[-1].gamma, 8),
        "plain_steps": min(4, (plain[::-1].index(False) if False in plain else len(plain))),
        "target_known": float(known),
        "target_entropy": last.target_entropy if known else 0,
        "target_logit": slow_logit(last.target_top1) if known else 0,
        "rejected_target_entropy": last.target_entropy if known and rejected else 0,
        "distance_known": float(apart),
        "distance": last.distance if apart else 0,
    }


def slow_logit(probability: float) -> float:
    p = float(np.clip(probability, 1e-4, 1 - 1e-4))
    return float(np.log(p) - np.log1p(-p))


def told(steps: Sequence[Step], to: History | None = None) -> History:
    """A history that has observed these steps."""
    to = to or History()
    for step in steps:
        to.observe(*step)
    return to


def features(of: History) -> dict[str, float]:
    return dict(zip(NAMES, of.features(), strict=True))


def random_text(chooser: random.Random) -> list[Step]:
    """Up to 12 steps, plain ones among them, with extreme and unknown signals."""
    steps = []
    for _ in range(chooser.randrange(13)):
        drafted = [
            TokenSignals(_bits(chooser), _probability(chooser), _probability(chooser))
            for _ in range(chooser.choice([0, 0, 1, 2, 3, 5, 16]))
        ]
        accepted = chooser.choice([len(drafted), chooser.randint(0, len(drafted))])
        known = [chooser.random() < 0.7 for _ in range(3)]
        signals = _bits(chooser), _probability(chooser), _probability(chooser)
        told = [value if is_known else math.nan for value, is_known in zip(signals, known, strict=True)]
        steps.append((drafted, Outcome(len(drafted), accepted, *told)))
    return steps


def _bits(chooser: random.Random) -> float:
    return chooser.choice([0.0, 16.0, *[chooser.uniform(0, 8)] * 6])


def _probability(chooser: random.Random) -> float:
    return chooser.choice([0.0, 1.0, *[chooser.random()] * 6])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_the_features_are_those_of_the_whole_sequence(seed: int) -> None:
    chooser, known = random.Random(seed), History()
    texts = [random_text(chooser) for _ in range(chooser.randint(1, 3))]
    for text in texts:
        known.begin()
        told(text, known)
    expected = slow_features(texts)
    assert set(expected) == set(NAMES)
    assert features(known) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert np.isfinite(known.features()).all()


def test_a_short_text_by_hand() -> None:
    sure, unsure = TokenSignals(0.5, 0.9, 0.05), TokenSignals(3.0, 0.25, 0.2)
    known = told([([sure, unsure], Outcome(2, 1, 2.0, 0.5, 0.4)), ([], Outcome(0, 0, 1.0, 0.8))])
    values = features(known)
    short = 0.6 + 0.3 * 0.4  # accepted, then rejected, then nothing verified: towards the middle one
    middle = (0.6 + 0.12 * 0.4) * 0.88
    assert values["accepted_short"] == pytest.approx(short * 0.7 * 0.7 + 0.3 * middle)
    assert values["log_position"] == pytest.approx(math.log(4))
    assert (values["last_accepted"], values["last_gamma"], values["plain_steps"]) == (1, 2, 1)
    assert (values["was_plain"], values["was_rejected"], values["log_run"]) == (1, 0, 0)
    assert (values["target_known"], values["target_entropy"], values["distance_known"]) == (1, 1, 0)
    assert values["target_logit"] == pytest.approx(math.log(4))
    assert values["distance_short"] == pytest.approx(0.3 * 0.7 + 0.3 * 0.4)


@pytest.mark.parametrize("known", list(product((False, True), repeat=3)))
@pytest.mark.parametrize("accepted", [0, 2])
def test_what_is_not_known_is_a_zero_beside_a_zero_flag(known: tuple[bool, bool, bool], accepted: int) -> None:
    given = [value if is_known else math.nan for value, is_known in zip((3.0, 0.7, 0.6), known, strict=True)]
    values = features(told([([TokenSignals(1, 0.5, 0.2)] * 2, Outcome(2, accepted, *given))]))
    assert np.isfinite(list(values.values())).all()
    assert values["target_known"] == (known[0] and known[1])
    assert values["distance_known"] == known[2]
    if not (known[0] and known[1]):
        of_the_target = ("target_entropy", "target_logit", "rejected_target_entropy", "target_entropy_short")
        assert [values[name] for name in of_the_target] == [0, 0, 0, 0]
    if not known[2]:
        assert values["distance"] == 0
        assert values["distance_short"] == values["distance_long"] == history.USUAL_DISTANCE


def test_a_new_text_keeps_what_belongs_to_the_pair() -> None:
    known = told([([TokenSignals(4.0, 0.3, 0.1)] * 3, Outcome(3, 0, 2.0, 0.5, 0.9))] * 40)
    before = features(known)
    known.begin()
    after, fresh = features(known), features(History())
    for name in NAMES:
        if name in OF_THE_PAIR:
            assert after[name] == before[name] != fresh[name]
        elif name not in BEGUN_FROM_THE_PAIR:
            assert after[name] == fresh[name]
    assert after["accepted_short"] == after["accepted_middle"] == after["accepted_long"] == before["accepted_pair"]
    assert after["surplus_middle"] == before["surplus_long"]
    assert after["distance_short"] == before["distance_long"]


@pytest.mark.parametrize("top1", [0.0, 1.0])
@pytest.mark.parametrize("entropy", [0.0, 16.0])
@pytest.mark.parametrize("gamma", [0, 1, 16])
def test_extreme_signals_give_finite_features(top1: float, entropy: float, gamma: int) -> None:
    known = History()
    for accepted in (0, gamma // 2, gamma):
        for distance in (0.0, 1.0, math.nan):
            outcome = Outcome(gamma, accepted, entropy, top1, distance)
            known.observe([TokenSignals(entropy, top1, 1 - top1)] * gamma, outcome)
            assert np.isfinite(known.features()).all()
    assert abs(logit(top1)) < 10


def test_a_text_of_a_hundred_thousand_steps_costs_no_more_as_it_grows() -> None:
    drafted = [TokenSignals(2.0, 0.6, 0.2)] * 3
    known, chunk, taken = History(), 10_000, []
    for start in range(0, 100_000, chunk):
        before = time.thread_time()
        for step in range(start, start + chunk):
            known.observe(drafted, Outcome(3, step % 4, 1.0, 0.5, 0.5))
        known.features()
        taken.append(time.thread_time() - before)
        if not start:
            size = len(pickle.dumps(known))
    assert len(pickle.dumps(known)) < size + 50
    assert taken[-1] < 5 * min(taken)
    assert np.isfinite(known.features()).all()


def test_a_step_with_a_spare_moves_on_by_its_token_too() -> None:
    tokens = [TokenSignals(1.0, 0.5, 0.3)] * 3
    one, other = History(), History()
    one.observe(tokens, Outcome(3, 1, 1.0, 0.5, 0.2, spares=1, spared=True))
    other.observe(tokens, Outcome(3, 1, 1.0, 0.5, 0.2))
    found, expected = (dict(zip(NAMES, history.features(), strict=True)) for history in (one, other))
    assert (found.pop("log_position"), expected.pop("log_position")) == (math.log1p(3), math.log1p(2))
    assert found == expected
