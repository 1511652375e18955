"""A policy that raises, answers nonsense or hangs: the text is the target's, the user is told, drafting goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from transformers import PreTrainedModel

from runtime import GammaSelector, SpeckvError
from runtime.loop.generate import speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.policies.adaptive import Rule
from runtime.policies.fallback import Fallback
from runtime.policies.guarded import Guarded
from runtime.policies.policy import Drafted, Outcome, Policy
from runtime.policies.registry import make_policy
from runtime.policies.speckv import SpecKV
from tests.faults.injections import Faulty, raising
from tests.faults.loops import LOOPS, plain
from tests.loop.fakes import Untimed
from tests.loop.test_greedy import own_tokens
from tests.loop.tiny import VOCABULARY, tiny_model
from tests.replay.tiny import TIMES

PROMPT, NEW = [3, 1, 4, 1, 5], 24
NONSENSE: list[Any] = [None, math.nan, math.inf, 2.5, "3", "", [], object(), 10**9, 2**70]
WHERE = ("begin", "first", "later", "observe")


@pytest.fixture(scope="module")
def expected(target: PreTrainedModel) -> list[int]:
    return own_tokens(target, PROMPT, NEW)


@pytest.mark.parametrize("after", [0, 4])
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("loop", LOOPS)
def test_raising(
    loop: str,
    where: str,
    after: int,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
) -> None:
    policy = Faulty(where, raising(RuntimeError("no idea")), 0 if where == "begin" else after)
    assert LOOPS[loop](draft, target, PROMPT, policy, NEW) == expected
    assert len(told.messages) == 1
    assert "'faulty' failed (RuntimeError: no idea)" in told.messages[0]


@pytest.mark.parametrize("where", ["first", "later"])
@pytest.mark.parametrize("answer", NONSENSE, ids=lambda answer: repr(answer).partition(" at ")[0])
@pytest.mark.parametrize("loop", LOOPS)
def test_nonsense(
    loop: str,
    answer: Any,
    where: str,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
) -> None:
    assert LOOPS[loop](draft, target, PROMPT, Faulty(where, lambda: answer, 2), NEW) == expected
    assert len(told.messages) == 1


@pytest.mark.parametrize("where", ["first", "later"])
@pytest.mark.parametrize("answer", [-1, -(10**9), True, 5000], ids=repr)
@pytest.mark.parametrize("loop", LOOPS)
def test_odd_answers_that_have_a_meaning(
    loop: str,
    answer: int,
    where: str,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
) -> None:
    """What is not above the drafted tokens ends the drafting, and what is beyond the room left is cut to it."""
    assert LOOPS[loop](draft, target, PROMPT, Faulty(where, lambda: answer, 2), NEW) == expected
    assert not told.messages


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("loop", LOOPS)
def test_hanging(
    loop: str,
    where: str,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Guarded, "SLOW_S", 0.005)
    monkeypatch.setattr(Guarded, "PATIENCE", 1 if where == "begin" else 3)
    policy = Faulty(where, lambda: time.sleep(0.006) or 1)
    assert LOOPS[loop](draft, target, PROMPT, policy, NEW) == expected
    assert "TimeoutError" in told.messages[0]


def test_two_slow_calls_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that the policy itself moves."""
    seconds = 0.0

    def takes(time_s: float) -> int:
        nonlocal seconds
        seconds += time_s
        return 2

    monkeypatch.setattr("runtime.policies.guarded.time.perf_counter", lambda: seconds)
    policy = Faulty("first", lambda: takes(5.0))
    guarded = Guarded(policy)
    assert [guarded.gamma(Drafted()) for _ in range(2)] == [2, 2]
    policy.act = lambda: takes(0.9)
    assert [guarded.gamma(Drafted()) for _ in range(50)] == [2] * 50
    assert guarded.policy is policy
    policy.act = lambda: takes(1.1)
    guarded.gamma(Drafted())
    assert guarded.policy is not policy


@pytest.mark.parametrize("where", WHERE)
def test_raising_while_sampling(
    where: str, target: PreTrainedModel, draft: PreTrainedModel, told: pytest.LogCaptureFixture
) -> None:
    """The distribution: tests/lossless. Here: all of the text, of the target's tokens."""
    policy = Faulty(where, raising(ValueError("x")), 0 if where == "begin" else 3)
    tokens = plain(draft, target, PROMPT, policy, NEW, sampling=Sampling(1.0), seed=3)
    assert len(tokens) == NEW
    assert all(0 <= token < VOCABULARY for token in tokens)
    assert len(told.messages) == 1


class BrokenSelector:
    """A selector that fails in one of the ways a selector can."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act

    def select(self, *_: object, **__: object) -> Any:
        answer = self.act()
        return type("Decision", (), {"gamma": answer})


@pytest.mark.parametrize(
    "act",
    [
        raising(SpeckvError("signals is nonsense")),
        raising(MemoryError()),
        *(lambda answer=answer: answer for answer in NONSENSE),
    ],
)
@pytest.mark.parametrize("loop", LOOPS)
def test_the_selector(
    loop: str,
    act: Callable[[], Any],
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
) -> None:
    policy = SpecKV(BrokenSelector(act), "fp16")  # type: ignore[arg-type]
    assert LOOPS[loop](draft, target, PROMPT, policy, NEW) == expected
    assert len(told.messages) == 1
    assert "'speckv' failed" in told.messages[0]


@pytest.mark.parametrize("probability", [math.nan, math.inf, -math.inf, None, "half"], ids=repr)
def test_the_acceptance_model(
    probability: Any,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = make_policy("adaptive", "fp16", TIMES)
    monkeypatch.setattr("runtime.stopper.stopper.Stopper.__call__", lambda *_: (probability, probability))
    assert plain(draft, target, PROMPT, policy, NEW) == expected
    assert len(told.messages) <= 1  # an infinite probability is sure of itself


def lengths(draft: PreTrainedModel, target: PreTrainedModel, policy: Policy, new: int) -> list[int]:
    return [step.gamma for step in speculate(*cached_pair(draft, target), PROMPT, policy, max_new_tokens=new)]


def test_first_a_fixed_gamma_then_plain_decoding(target: PreTrainedModel) -> None:
    """A draft that is always wrong beside a controller that fails: two tokens for eight steps, then none."""
    draft = tiny_model(seed=9, layers=1)
    policy = Faulty("first", raising(RuntimeError()), 2)
    never = own_tokens(target, PROMPT, 40)
    with pytest.MonkeyPatch.context() as patch:
        # What it proposes is made wrong for certain.
        original = draft.forward

        def wrong(*given: Any, **named: Any) -> Any:
            output = original(*given, **named)
            output.logits[..., never] = -1e9
            return output

        patch.setattr(draft, "forward", wrong)
        gammas = lengths(draft, target, policy, 40)
    assert gammas[:2] == [3, 3]
    assert gammas[2:10] == [Fallback.LENGTH] * Fallback.PATIENCE
    assert set(gammas[10:]) == {0}


def test_where_they_stand_the_fallback_goes_on_drafting(target: PreTrainedModel) -> None:
    gammas = lengths(target, target, Faulty("first", raising(RuntimeError())), 60)
    assert set(gammas[:-1]) == {Fallback.LENGTH}
    assert len(gammas) == 20


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (raising(RuntimeError("no idea")), "RuntimeError: no idea"),
        (lambda: "x > 0.5", "TypeError: its rule is 'x > 0.5'"),
        (lambda: Rule(cast(Any, None), cast(Any, None)), "TypeError: its rule is Rule("),
    ],
    ids=["raises", "nonsense", "empty"],
)
def test_a_rule_that_fails(
    act: Callable[[], Any],
    said: str,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
) -> None:
    class Ruled(Faulty):
        def device_rule(self) -> Any:
            return act()

    assert LOOPS["graphs"](draft, target, PROMPT, Ruled("nowhere", act), NEW) == expected
    (line,) = set(told.messages)
    assert f"'faulty' failed ({said}" in line


def test_the_next_text_asks_the_policy_again(target: PreTrainedModel, told: pytest.LogCaptureFixture) -> None:
    act, policy = raising(RuntimeError("once")), Faulty("first", raising(RuntimeError("once")), 1)
    for _ in range(3):
        policy.act, policy.left = act, 1
        assert lengths(target, target, policy, 12)[:2] == [3, Fallback.LENGTH]
    assert len(told.messages) == 1  # told once, not at every text


def test_a_policy_cannot_change_the_loops_record(target: PreTrainedModel, expected: list[int]) -> None:
    class Meddler(Faulty):
        def gamma(self, drafted: Drafted) -> Any:
            length = super().gamma(drafted)
            drafted.tokens.clear()
            return length

    for loop in LOOPS.values():
        assert loop(target, target, PROMPT, Meddler("", int), NEW) == expected


def test_a_policy_without_a_name_and_one_that_says_nothing(target: PreTrainedModel, expected: list[int]) -> None:
    class Nameless:
        def begin(self) -> None: ...

        def gamma(self, drafted: Drafted) -> int:
            raise KeyError(drafted)

        def observe(self, outcome: Outcome) -> None:
            del outcome

    assert plain(target, target, PROMPT, Nameless(), NEW) == expected  # type: ignore[arg-type]


def test_a_selector_that_fails_now_and_then(
    target: PreTrainedModel, expected: list[int], monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    selector = GammaSelector()
    monkeypatch.setattr(selector, "_published", None)
    monkeypatch.setattr(selector, "_asked", None)
    assert plain(target, target, PROMPT, Untimed(SpecKV(selector, "fp16")), NEW) == expected
    assert len(told.messages) == 1
