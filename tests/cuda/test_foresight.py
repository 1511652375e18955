"""What the device foresees is what `Adaptive` answers; without it, or with another answer, the text is the same."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from runtime.cuda.foresight import Foresight
from runtime.cuda.loop import speculate_texts
from runtime.cuda.pair import Drawn, GraphPair
from runtime.loop.generate import Step
from runtime.loop.sampling import Sampling
from runtime.loop.texts import Text
from runtime.policies.adaptive import Adaptive, Rule
from runtime.policies.policy import Drafted, Outcome, TokenSignals
from runtime.policies.price import LONGEST
from runtime.policies.step_times import StepTimes
from runtime.stopper.stopper import Stopper
from tests.cuda.small import shorten_calls, small_pair
from tests.cuda.test_loop import Recorded
from tests.cuda.test_tokens import DEVICE, on_host, told

TIMES = StepTimes({1: 0.02, 2: 0.03}, {1: 1.0, 2: 1.1, 3: 1.2, 17: 1.5}, ahead=True)


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    return small_pair(32)


def signals_like(rng: random.Random) -> TokenSignals:
    """Of a distribution that is sure or unsure, the ends of the scale included."""
    top1 = rng.choice([rng.random(), 1 - rng.random() ** 4, 0.99999, 1.0, 1e-5])
    return TokenSignals(rng.expovariate(0.7) * (1 - top1), top1, min(1 - top1, top1) * rng.random())


def begun(rng: random.Random, times: StepTimes = TIMES) -> Adaptive:
    """A policy that has seen some steps and has given the first answer of another one."""
    policy = Adaptive(Stopper(), times)
    for _ in range(rng.randrange(6)):
        policy.gamma(Drafted())
        gamma = rng.randrange(1, 6)
        policy.gamma(Drafted([signals_like(rng) for _ in range(gamma)]))
        policy.tokens = [signals_like(rng) for _ in range(gamma)]
        policy.observe(Outcome(gamma, rng.randrange(gamma + 1), rng.random() * 4, rng.random(), rng.random()))
    policy.gamma(Drafted())
    return policy


def rule(policy: Adaptive) -> Rule:
    found = policy.device_rule()
    assert found
    return found


def written(rows: list[TokenSignals]) -> torch.Tensor:
    return torch.tensor([[*signals, 7.0, 0.0] for signals in rows], device=DEVICE)


def test_what_is_foreseen_is_what_the_policy_answers() -> None:
    rng = random.Random(3)
    texts, slots, answers = 3, LONGEST, []
    foresight = Foresight(slots, texts, torch.device(DEVICE))
    assert foresight.choose(Stopper())
    for _ in range(8):
        slower = StepTimes(TIMES.draft, {q: ms * rng.uniform(0.05, 2) for q, ms in TIMES.target.items()})
        policies = [begun(rng, rng.choice([TIMES, slower])) for _ in range(texts)]
        foresight.give({row: rule(policy) for row, policy in enumerate(policies)})
        signals, drafted = torch.zeros(slots, texts, 5, device=DEVICE), [Drafted() for _ in range(texts)]
        for slot in range(slots):
            new = [signals_like(rng) for _ in range(texts)]
            signals[slot] = written(new)
            host = on_host(texts, 5)
            foresight.read(slot, signals, host)
            for row, (policy, token, so_far) in enumerate(zip(policies, new, drafted, strict=True)):
                so_far.tokens.append(token)
                answer = policy.gamma(so_far)
                found = told(host)[row].tolist()
                assert found[:4] == pytest.approx([*token, 7.0])
                if slot + 1 < LONGEST:
                    assert slot + 1 + found[4] == answer
                    answers.append(found[4])
                else:
                    assert math.isnan(found[4])
    assert 0.2 < sum(answers) / len(answers) < 0.8


def test_a_step_whose_rules_came_late_is_not_foreseen_and_the_next_one_is() -> None:
    policy, foresight = begun(random.Random(1)), Foresight(4, 2, torch.device(DEVICE))
    assert foresight.choose(policy.stopper)
    signals = torch.zeros(4, 2, 5, device=DEVICE)
    signals[:] = written([TokenSignals(1.0, 0.5, 0.2)] * 2)

    def answers(slot: int) -> list[bool]:
        host = on_host(2, 5)
        foresight.read(slot, signals, host)
        return [not math.isnan(row[4]) for row in told(host).tolist()]

    foresight.give({1: rule(policy)})
    foresight.forget()
    assert answers(0) == [False, False]
    foresight.give({1: rule(policy)})
    assert answers(1) == [False, False]  # the first token's part is missing
    assert answers(0) == [False, True]
    assert answers(1) == [False, True]
    foresight.give({0: rule(policy), 1: rule(policy)})
    foresight.give({0: rule(policy)})
    assert answers(0) == [True, False]  # no rule of an earlier step is left
    assert foresight.choose(policy.stopper)
    assert answers(0) == [False, False]


@pytest.mark.parametrize("signals", [TokenSignals(math.nan, 0.5, 0.2), TokenSignals(1.0, math.nan, math.nan)])
def test_nothing_is_foreseen_of_what_is_no_number(signals: TokenSignals) -> None:
    policy, foresight = begun(random.Random(1)), Foresight(1, 1, torch.device(DEVICE))
    assert foresight.choose(policy.stopper)
    foresight.give({0: rule(policy)})
    host = on_host(1, 5)
    foresight.read(0, written([signals])[None], host)
    assert math.isnan(told(host)[0, 4])


def test_a_policy_that_answers_otherwise_has_no_rule() -> None:
    class Longer(Adaptive):
        def gamma(self, drafted: Drafted) -> int:
            return max(super().gamma(drafted), 3)

    assert Longer(Stopper(), TIMES).device_rule() is None


def test_policies_of_another_model_are_not_foreseen() -> None:
    policy, foresight = begun(random.Random(1)), Foresight(1, 2, torch.device(DEVICE))
    assert foresight.choose(Stopper())
    other = begun(random.Random(2))
    other.stopper._W2[:] *= 2
    foresight.give({0: rule(policy), 1: rule(other)})
    signals, host = written([TokenSignals(1.0, 0.5, 0.2)] * 2)[None], on_host(2, 5)
    foresight.read(0, signals, host)
    assert [math.isnan(answer) for answer in told(host)[:, 4].tolist()] == [False, True]


def test_a_model_that_is_too_large_is_left_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.cuda.foresight.UNITS", 16)
    assert not Foresight(2, 1, torch.device(DEVICE)).choose(Stopper())


class Watched(GraphPair):
    """A pair that keeps what it is asked; what it drafts ahead it drafts as late as a device may."""

    least: float | None = None
    """What a next token must exceed in all rules, whatever the policy says."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.calls: list[str] = []
        self.late: tuple[Any, ...] | None = None

    def draft(self, slot: int, *given: Any, ahead: bool = False) -> None:
        self.calls.append(f"draft {slot}")
        if ahead:
            self.foresight.forget()
            self.late = given
        else:
            self.catch_up()
            super().draft(slot, *given)

    def catch_up(self) -> None:
        if self.late is not None:
            super().draft(0, *self.late)
        self.late = None

    def drafted(self, slot: int) -> list[Drawn]:
        self.catch_up()
        return super().drafted(slot)

    def verify(self, gammas: Any, *given: Any) -> None:
        self.calls.append("verify")
        self.catch_up()
        super().verify(gammas, *given)

    def give_rules(self, rules: Mapping[int, Rule]) -> None:
        super().give_rules(rules)
        if self.least is not None:
            self.foresight._least.fill_(self.least)


class Asked(Adaptive):
    """A policy that says when it is asked."""

    calls: list[str]

    def gamma(self, drafted: Drafted) -> int:
        self.calls.append(f"ask {drafted.count}")
        return super().gamma(drafted)

    def device_rule(self) -> Rule:
        return Rule(self.stopper, self.price)  # it answers as its base does


def decoded(
    models: tuple[PreTrainedModel, PreTrainedModel],
    rule: bool,
    least: float | None = None,
    sampling: Sampling | None = None,
) -> tuple[list[Step], list[str]]:
    """Return the steps of a text, and the calls."""
    pair = Watched(*models, 1, 24, 6)
    pair.least = least
    policy = Asked(Stopper(), TIMES)
    policy.calls = pair.calls
    policy.times.observe = lambda *_: None  # type: ignore[method-assign]
    if not rule:
        policy.device_rule = None  # type: ignore[assignment, method-assign]
    kept = Recorded(policy)
    if rule:
        kept.device_rule = policy.device_rule  # type: ignore[attr-defined]
    steps = speculate_texts(pair, [Text([3, 1, 4], 11)], [kept], sampling=sampling, seed=2)
    return [step for _, step, _ in steps], pair.calls


@pytest.mark.parametrize("least", [None, 1e9, -1.0], ids=["right", "stops", "goes on"])
def test_the_text_is_the_same_whatever_is_foreseen(
    models: tuple[PreTrainedModel, PreTrainedModel], least: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_calls(monkeypatch)
    steps, calls = decoded(models, rule=True, least=least)
    expected, asked = decoded(models, rule=False)
    assert [token for step in steps for token in step.tokens] == [token for step in expected for token in step.tokens]
    gammas = [step.gamma for step in expected]
    assert max(gammas) > 1
    if least == 1e9:
        assert [step.gamma for step in steps] == [min(step.gamma, 1) for step in steps]
        assert "ask 1" in calls  # told all the same
        assert calls[calls.index("ask 1") - 1] == "draft 0"  # the next step's, behind this one's verification
    else:
        assert [(step.gamma, step.accepted) for step in steps] == [(step.gamma, step.accepted) for step in expected]
        assert [call for call in calls if "ask" in call] == [call for call in asked if "ask" in call]
        assert asked[asked.index("ask 1") + 1] == "draft 1"
        assert calls[calls.index("ask 1") - 1] == "draft 1"


def test_sampled_texts_are_the_same_whatever_is_foreseen(
    models: tuple[PreTrainedModel, PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_calls(monkeypatch)
    steps, calls = decoded(models, rule=True, sampling=Sampling(1.0))
    expected, asked = decoded(models, rule=False, sampling=Sampling(1.0))
    assert [step.tokens for step in steps] == [step.tokens for step in expected]
    assert [(step.gamma, step.accepted) for step in steps] == [(step.gamma, step.accepted) for step in expected]
    assert calls != asked
