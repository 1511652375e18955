"""The loop on a `GraphPair`: the target's own greedy tokens, and the plain loop's steps and signals."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedModel

from runtime.cuda.loop import speculate_greedily
from runtime.cuda.pair import GraphPair
from runtime.loop.generate import speculate
from runtime.loop.scorer import cached_pair
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Drafted, Memoryless, Outcome, Policy
from tests.cuda.small import shorten_calls, small_pair
from tests.loop.fakes import StopWhenUnsure


class Recorded(Memoryless):
    """A policy that keeps what it is told."""

    name = "recorded"

    def __init__(self, policy: Policy) -> None:
        self.policy, self.outcomes = policy, []

    def begin(self) -> None:
        self.policy.begin()

    def gamma(self, drafted: Drafted) -> int:
        return self.policy.gamma(drafted)

    def observe(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class NowAndThen(Memoryless):
    """Drafts nothing for a while, then a few tokens at once."""

    name = "now and then"

    def __init__(self, plain: int) -> None:
        self.plain, self.steps = plain, 0

    def begin(self) -> None:
        self.steps = 0

    def gamma(self, drafted: Drafted) -> int:
        self.steps += not drafted.count
        return 3 if self.steps % (self.plain + 1) == 0 else 0


class Slow(Recorded):
    """A policy that takes its time, by a clock that it moves itself."""

    def __init__(self, policy: Policy, gamma_s: float, observe_s: float) -> None:
        super().__init__(policy)
        self.now_s, self.gamma_s, self.observe_s = 0.0, gamma_s, observe_s

    def gamma(self, drafted: Drafted) -> int:
        self.now_s += self.gamma_s
        return super().gamma(drafted)

    def observe(self, outcome: Outcome) -> None:
        self.now_s += self.observe_s
        super().observe(outcome)


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calls(monkeypatch)


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    return small_pair(64)


@pytest.mark.parametrize(
    "policy",
    [Fixed(0), Fixed(3), Fixed(9), StopWhenUnsure(0.3, 5), NowAndThen(2), NowAndThen(7)],
    ids=["plain", "fixed", "long", "unsure", "now and then", "seldom"],
)
@pytest.mark.parametrize("length", [1, 19])
def test_steps_are_those_of_the_plain_loop(
    models: tuple[PreTrainedModel, PreTrainedModel], policy: Policy, length: int
) -> None:
    draft, target = models
    torch.manual_seed(length)
    prompt = torch.randint(0, 64, (length,)).tolist()
    pair = GraphPair(draft, target, 1, 64, 6)
    fast, plain = Recorded(policy), Recorded(policy)
    new = 12
    steps = list(speculate_greedily(pair, prompt, fast, max_new_tokens=new))
    expected = list(speculate(*cached_pair(draft, target), prompt, plain, max_new_tokens=new))
    tokens = [token for step in steps for token in step.tokens]
    assert tokens == [token for step in expected for token in step.tokens]
    if policy.name != "fixed:9":  # longer than this pair's longest
        assert [(s.gamma, s.accepted) for s in steps] == [(s.gamma, s.accepted) for s in expected]
        for one, other in zip(fast.outcomes, plain.outcomes, strict=True):
            assert one[2:5] == pytest.approx(other[2:5], rel=1e-3, abs=1e-4, nan_ok=True)
        for step, other in zip(steps, expected, strict=True):
            for signals, wanted in zip(step.drafted.tokens, other.drafted.tokens, strict=True):
                assert signals == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    assert not any(math.isnan(outcome.target_entropy) for outcome in fast.outcomes)


def test_a_pair_is_used_again(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    draft, target = models
    pair = GraphPair(draft, target, 1, 64, 6)
    texts = []
    for _ in range(2):
        for prompt in ([5, 6, 7, 8, 9, 10, 11, 12], [3, 1]):
            steps = speculate_greedily(pair, prompt, Fixed(4), max_new_tokens=10)
            texts.append([token for step in steps for token in step.tokens])
    assert texts[:2] == texts[2:]
    assert texts[0] != texts[1]


def test_an_end_of_text_token_ends_it(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    draft, target = models
    pair = GraphPair(draft, target, 1, 64, 6)
    steps = [s.tokens for s in speculate_greedily(pair, [4, 5, 6], Fixed(4), max_new_tokens=10)]
    whole = [token for tokens in steps for token in tokens]
    end = whole[5]
    steps = [s.tokens for s in speculate_greedily(pair, [4, 5, 6], Fixed(4), max_new_tokens=10, eos=[end])]
    assert [token for tokens in steps for token in tokens] == whole[: whole.index(end) + 1]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Fixed(2), [250 + 500] * 4),  # two questions, and what was learned while the first token was drafted
        (Fixed(0), [125] * 4),
        (NowAndThen(1), [250, 125 + 500] * 2),  # after a plain step nothing is drafted ahead
    ],
    ids=["ahead", "plain", "in turn"],
)
def test_what_the_host_does_while_a_token_is_drafted_ahead_is_drafting_and_what_the_caller_does_is_not(
    models: tuple[PreTrainedModel, PreTrainedModel],
    policy: Policy,
    expected: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Slow(policy, gamma_s=0.125, observe_s=0.5)
    monkeypatch.setattr("runtime.cuda.loop.time.perf_counter", lambda: slow.now_s)
    for _ in speculate_greedily(GraphPair(*models, 1, 64, 6), [3, 1, 4], slow, max_new_tokens=20):
        slow.now_s += 100
    first, *later = [outcome.draft_ms for outcome in slow.outcomes]
    assert math.isnan(first)  # the prompt's step
    assert later[:4] == expected
    assert {outcome.verify_ms for outcome in slow.outcomes[1:]} == {0.0}
