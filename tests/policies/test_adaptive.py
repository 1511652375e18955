"""The adaptive policy: its rule and its trials with a model that says what it is told to, then with the shipped one."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor

from runtime.loop.generate import speculate
from runtime.loop.sampling import Sampling
from runtime.policies.adaptive import Adaptive
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Drafted, Outcome, TokenSignals
from runtime.policies.price import BINS, LONGEST
from runtime.policies.step_times import StepTimes
from runtime.replay.replay import Run, replay
from runtime.replay.traces import LOOKAHEAD, Text
from runtime.stopper.stopper import Stopper
from tests.loop.fakes import TableScorer, Untimed
from tests.policies.pairs import COMPILED, GRAPH, SURE, UNSURE, USUAL, best_fixed, rate, scaled, text, usual_text
from tests.replay import tiny
from tests.replay.tiny import TIMES

MANY = 1200
"""Tokens of a long text."""


class Told:
    """A model that always answers the same."""

    def __init__(self, accepted: float, following: float) -> None:
        self.answer = accepted, following

    def begin_step(self, context: Sequence[float]) -> None:
        """What is told decides."""

    def __call__(self, _: Sequence[float]) -> tuple[float, float]:
        return self.answer


def told(accepted: float, following: float, times: StepTimes = TIMES) -> Adaptive:
    return Adaptive(Told(accepted, following), times)  # type: ignore[arg-type]


def shipped(times: StepTimes = GRAPH) -> Adaptive:
    return Adaptive(Stopper(), times)


def gammas(runs: Sequence[Run]) -> list[int]:
    return [step.gamma for run in runs for step in run.steps]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def decide(policy: Adaptive) -> int:
    """Ask as the loop does until the policy has enough; return the length."""
    drafted = Drafted()
    while (goal := policy.gamma(drafted)) > drafted.count:
        assert goal == drafted.count + 1 <= LONGEST
        drafted.tokens.append(TokenSignals(1.0, 0.8, 0.1))
    return drafted.count


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 2), st.floats(0, 1))
@example(0.9375, 1.0, 1.0, 0.0)  # a probability of 1 has a price of its own
def test_it_goes_on_while_the_next_tokens_are_worth_more_than_they_take(
    accepted: float, following: float, draft_ms: float, wider_ms: float
) -> None:
    b, token_ms = int(following * BINS) / BINS, draft_ms + wider_ms
    best = max(sum(b**k for k in range(gamma + 1)) / (4 + gamma * token_ms) for gamma in range(LONGEST + 1))
    # All tokens take the same time here, so none pays where one does not.
    worth = [accepted**drafted * following / (best * token_ms) for drafted in range(LONGEST)]
    # Prices are tabulated over b; the trial of a first token, which must not lose anything, looks at the probability.
    first = (1 + following) / (4 + token_ms)
    assume(all(abs(value - 1) > 1e-6 for value in worth) and abs(first - 1 / 4) > 1e-6)
    assume(abs((1 + b) / (4 + token_ms) - 1 / 4) > 1e-6)
    expected = int(best > 1 / 4 or first > 1 / 4)
    while 0 < expected < LONGEST and worth[expected] > 1:
        expected += 1
    assert decide(told(accepted, following, StepTimes({1: draft_ms}, {1: 4.0, 17: 4 + 16 * wider_ms}))) == expected


def test_the_rule_by_hand() -> None:
    # One more token takes 2 ms. At b = 0.8 the best of (1 + 0.8 + …) / (4 + 2 gamma) is 3.3616 / 12, at gamma 4.
    assert decide(told(1.0, 0.8)) == LONGEST  # 0.8 > 0.56 at every length
    assert decide(told(0.8, 0.8)) == 2  # 0.64 > 0.56 after one token, 0.512 < 0.56 after two
    assert decide(told(0.6, 0.8)) == 1
    assert decide(told(0.8, 0.4)) == 0  # 1.4 / 6 is less than 1 / 4


def test_a_trial_is_due_when_a_percent_of_the_time_covers_it() -> None:
    # 6 ms for 1.4 expected tokens, which would take 5.6 plainly: ten steps of 4 ms earn the 0.4 ms.
    policy, lengths = told(0.8, 0.4), []
    for _ in range(12):
        policy.begin()  # whether or not they are steps of one text
        lengths.append(decide(policy))
        policy.observe(Outcome(lengths[-1], 0))
    assert lengths in ([*[0] * 10, 1, 0], [*[0] * 11, 1])  # the tenth may or may not round to enough


@pytest.mark.parametrize("following", [0.0, 0.2, 0.49])
@pytest.mark.parametrize("lengths", [[MANY], [15] * (MANY // 15), [7, 400] * 5], ids=["long", "short", "mixed"])
def test_trials_in_vain_lose_at_most_a_percent(following: float, lengths: list[int]) -> None:
    texts = [tiny.text([0] * length) for length in lengths]
    took_ms = sum(run.model_ms for run in replay(texts, told(0.5, following), TIMES))
    lost_ms = took_ms - sum(run.model_ms for run in replay(texts, Fixed(0), TIMES))
    trial_ms = TIMES.step_ms(1, 2) - TIMES.step_ms(0)
    assert lost_ms <= 0.01 * took_ms + trial_ms
    assert lost_ms >= 0.009 * took_ms - trial_ms  # they do take place, in short texts as well


def test_what_trials_gained_does_not_pay_for_a_long_bad_text() -> None:
    policy = told(0.5, 0.49)
    replay([tiny.text([LOOKAHEAD] * MANY)], policy, TIMES)  # the model underestimates the pair: every trial gains
    (bad,) = replay([tiny.text([0] * MANY)], policy, TIMES)
    most_ms = 0.01 * bad.model_ms + policy.SAVED * TIMES.step_ms(0) + TIMES.step_ms(1, 2)
    assert bad.model_ms - MANY * TIMES.step_ms(0) <= most_ms


@pytest.mark.parametrize("times", [GRAPH, COMPILED, TIMES], ids=["graph", "compiled", "dear"])
@pytest.mark.parametrize("deviations", [USUAL, SURE, UNSURE], ids=["usual", "sure", "unsure"])
def test_a_pair_that_never_agrees_is_hardly_slower_than_plain_decoding(
    times: StepTimes, deviations: tuple[float, float]
) -> None:
    texts = [text(200, 0, seed, deviations) for seed in range(3)]
    _, *later = replay(texts, shipped(times), times)
    assert rate(later) >= 0.97 * rate(replay(texts, Fixed(0), times))


@pytest.mark.parametrize("times", [GRAPH, COMPILED], ids=["graph", "compiled"])
@pytest.mark.parametrize("length", [15, 400])
def test_a_pair_that_begins_to_agree_is_found_again(times: StepTimes, length: int) -> None:
    policy = shipped(times)
    replay([text(200, 0, seed) for seed in range(3)], policy, times)
    texts = [text(length, LOOKAHEAD, seed) for seed in range(900 // length)]  # the same signals, other outcomes
    steps = [step for run in replay(texts, policy, times) for step in run.steps]
    tokens = 0
    while tokens < 300:
        tokens += steps.pop(0).accepted + 1
    found = sum(step.accepted + 1 for step in steps) / sum(step.draft_ms + step.verify_ms for step in steps)
    assert found >= 0.95 * best_fixed(texts, times)


@pytest.mark.parametrize("times", [GRAPH, COMPILED, TIMES], ids=["graph", "compiled", "dear"])
@pytest.mark.parametrize("deviations", [USUAL, SURE, UNSURE], ids=["usual", "sure", "unsure"])
def test_where_all_is_accepted_it_is_as_fast_as_the_best_length(
    times: StepTimes, deviations: tuple[float, float]
) -> None:
    texts = [text(300, LOOKAHEAD, seed, deviations) for seed in range(3)]
    assert rate(replay(texts, shipped(times), times)) >= 0.93 * best_fixed(texts, times)


def test_it_never_asks_for_more_than_the_longest_and_for_one_token_at_a_time() -> None:
    assert decide(told(1.0, 1.0)) == decide(told(1.0, 1.0, StepTimes({1: 1e-6}, {1: 4.0}))) == LONGEST
    policy, lengths = shipped(StepTimes({1: 0.2}, {1: 4.0})), set()
    for traced in tiny.random_texts(1):
        policy.begin()
        for accepted in traced.accepted:
            gamma = decide(policy)
            lengths.add(gamma)
            policy.observe(Outcome(gamma, min(gamma, accepted), 1.0, 0.5, 0.3))
    assert max(lengths) == LONGEST
    assert len(lengths) > 3


class Verifier(TableScorer):
    """A target that remembers what it was last asked to verify."""

    def score(self, tokens: Tensor, keep: int) -> Tensor:
        self.last = tokens.tolist()
        return super().score(tokens, keep)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "sampled"])
def test_every_drafted_token_is_verified(sampling: Sampling) -> None:
    draft, target = TableScorer(16, seed=9), Verifier(16, seed=1)
    draft.table = (draft.table + 3 * target.table) / 4
    seen = set()
    for step in speculate(draft, target, [1, 2], Untimed(shipped()), max_new_tokens=150, sampling=sampling):
        assert step.drafted.count == step.gamma == len(target.last) - 1
        assert target.last[1 : step.accepted + 1] == step.tokens[:-1]
        seen.add((step.gamma, step.accepted))
    assert len(seen) > 3


def test_a_machine_three_times_slower_changes_no_length() -> None:
    texts = [text(120, LOOKAHEAD, seed, SURE) for seed in range(3)]
    alike = gammas(replay(texts, shipped(), GRAPH))
    slow = scaled(GRAPH, 3, 3)
    assert gammas(replay(texts, shipped(), slow)) == alike  # the times given were wrong from the start
    assert gammas(replay(texts, shipped(slow), slow)) == alike  # or were right


def test_a_machine_that_slows_down_on_the_way_is_as_good_as_before() -> None:
    texts = [usual_text(300, seed) for seed in range(5)]
    policy, steady = shipped(), shipped()
    for one in (policy, steady):
        replay(texts[:2], one, GRAPH)
    slow = scaled(GRAPH, 3, 3)
    assert 3 * rate(replay(texts[2:], policy, slow)) == pytest.approx(rate(replay(texts[2:], steady, GRAPH)), rel=0.02)


def test_where_only_one_model_slows_the_lengths_follow() -> None:
    texts = [usual_text(300, seed) for seed in range(3)]
    usual = mean(gammas(replay(texts, shipped(), GRAPH)))
    slow_target, slow_draft = scaled(GRAPH, 1, 5), scaled(GRAPH, 5, 1)
    followed = replay(texts, shipped(), slow_target)
    assert mean(gammas(followed)) > 1.3 * usual
    assert mean(gammas(replay(texts, shipped(), slow_draft))) < usual / 1.3
    # What is found out on the way is as good as what is known before.
    assert rate(followed[1:]) >= 0.98 * rate(replay(texts, shipped(slow_target), slow_target)[1:])


def follow(policy: Adaptive, texts: Sequence[Text]) -> Iterator[tuple[int, int]]:
    """Replay texts one step at a time."""
    for one in texts:
        policy.begin()
        position = 0
        while position < one.positions:
            drafted, limit = Drafted(), min(one.positions - position - 1, LOOKAHEAD)
            while (goal := min(policy.gamma(drafted), limit)) > drafted.count:
                drafted.tokens += one.rollouts[position][drafted.count : goal]
            accepted = min(drafted.count, one.accepted[position])
            policy.observe(Outcome(drafted.count, accepted, 1.5, 0.6, 0.4))
            position += accepted + 1
            yield drafted.count, accepted


def test_it_is_deterministic_and_two_of_them_do_not_mix() -> None:
    both = [[usual_text(150, seed) for seed in seeds] for seeds in ((1, 2), (3, 4))]
    alone = [list(follow(shipped(), texts)) for texts in both]
    assert [list(follow(shipped(), texts)) for texts in both] == alone
    running = [follow(shipped(), texts) for texts in both]
    together: list[list[tuple[int, int]]] = [[], []]
    for place in (0, 1) * max(map(len, alone)):
        together[place] += [step for step in [next(running[place], None)] if step]
    assert together == alone
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda texts: list(follow(shipped(), texts)), both)) == alone


def test_a_new_text_begins_with_the_pair_known_and_nothing_else() -> None:
    policy, twin = shipped(), shipped()
    for one in (policy, twin):
        list(follow(one, [usual_text(150, 5)]))
    policy.begin()  # a text that never came to a step
    assert (policy.pending, policy.tokens) == (1, [])
    following = [usual_text(150, 6)]
    steps = list(follow(policy, following))
    assert steps == list(follow(twin, following))
    assert steps != list(follow(shipped(), following))  # what was learned stays


def test_it_knows_how_many_tokens_the_draft_has_not_seen() -> None:
    chooser, policy = random.Random(0), told(0.5, 0.2)
    committed, seen = 5, 4
    for _ in range(100):
        assert policy.pending == committed - seen
        decide(policy)
        gamma = chooser.choice([0, 0, 1, 2, 5])  # fewer than asked for near a text's end: the outcome tells
        accepted = chooser.choice([gamma, chooser.randint(0, gamma)])
        if gamma:
            seen = committed + gamma - 1  # all but its own last token
        committed += accepted + 1
        seen = min(seen, committed - 1)
        policy.tokens = [TokenSignals(1.0, 0.8, 0.1)] * gamma
        policy.observe(Outcome(gamma, accepted))


def test_a_copy_goes_on_alike_and_apart() -> None:
    policy, following = shipped(), [usual_text(150, 8)]
    list(follow(policy, [usual_text(150, 7)]))
    twin = copy.deepcopy(policy)
    assert list(follow(twin, following)) == list(follow(policy, following))


def test_after_a_spare_the_draft_has_not_seen_two_tokens() -> None:
    policy = Adaptive(Stopper(), TIMES)
    policy.gamma(Drafted())
    policy.tokens = [TokenSignals(1.0, 0.8, 0.1)] * 3
    policy.observe(Outcome(3, 1, spares=1, spared=True))
    assert policy.pending == 2
    policy.observe(Outcome(3, 1, spares=1))
    assert policy.pending == 1


def test_it_wants_no_spare_that_is_impossible_or_does_not_fit() -> None:
    """Even where a wider call is the faster one."""
    target = {1: 1.0, 2: 1.1, 3: 1.0, 4: 0.9, 5: 0.8, 6: 0.7, 7: 0.6, 8: 0.5, 9: 0.4, 17: 1.5}
    policy = Adaptive(Stopper(), StepTimes({1: 0.02, 2: 0.03}, target, ahead=True, spare_ms=0.0))
    policy.gamma(Drafted())
    certain, unsure = TokenSignals(0.0, 1.0, 0.0), TokenSignals(1.5, 0.5, 0.4)
    assert policy.spares(Drafted([certain])) == []
    assert policy.spares(Drafted([certain] * 3)) == []
    assert policy.spares(Drafted([unsure] * 5)) == [0, 1]
    assert policy.spares(Drafted([unsure] * 6)) == [0]
    assert policy.spares(Drafted([unsure] * 7)) == policy.spares(Drafted([unsure] * 16)) == []
