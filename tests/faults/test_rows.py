"""Texts side by side: a fault in one row is nothing to the others, one in the draft or the pair ends no text."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from runtime.cuda.loop import speculate_texts
from runtime.cuda.pair import GraphPair
from runtime.errors import TargetError
from runtime.loop.backend import Backend
from runtime.loop.sampling import Sampling
from runtime.loop.texts import Text
from runtime.policies.fixed import Fixed
from runtime.policies.guarded import Guarded
from runtime.policies.policy import Policy
from tests.faults.injections import OUT_OF_MEMORY, SPOILT, Faulty, fails, in_forward, raising, spoils
from tests.faults.loops import FakePair, plain, tokens_of
from tests.faults.test_target import BrokenGraphs
from tests.loop.test_greedy import own_tokens

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9], [7], [9, 3, 2, 3]]
NEW = (14, 9, 20, 11, 5)
TEXTS = [Text(prompt, new) for prompt, new in zip(PROMPTS, NEW, strict=True)]
ROWS = 3
POLICY_FAULTS: dict[str, Callable[[], Any]] = {
    "raises": raising(RuntimeError("no idea")),
    "nothing": lambda: None,
    "a number that is none": lambda: float("nan"),
    "words": lambda: "three",
    "far too many": lambda: 2**70,
    "hangs": lambda: time.sleep(0.006) or 1,
}


@pytest.fixture(scope="module")
def expected(target: PreTrainedModel) -> list[list[int]]:
    return [own_tokens(target, prompt, new) for prompt, new in zip(PROMPTS, NEW, strict=True)]


def collect(pair: FakePair, policies: list[Policy], found: dict[int, list[int]]) -> None:
    """Decode all texts into `found`, which keeps what there was before an error."""
    for number, step, _ in speculate_texts(cast(GraphPair, pair), TEXTS, policies):
        found.setdefault(number, []).extend(step.tokens)


def decoded(draft: PreTrainedModel, target: PreTrainedModel, policies: list[Policy]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    collect(FakePair(draft, target, ROWS), policies, found)
    return [found[number] for number in range(len(TEXTS))]


@pytest.mark.parametrize("fault", POLICY_FAULTS)
@pytest.mark.parametrize("where", ["begin", "first", "later", "observe"])
def test_a_policy_of_one_row(
    where: str,
    fault: str,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[list[int]],
    told: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Guarded, "SLOW_S", 0.005)
    monkeypatch.setattr(Guarded, "PATIENCE", 1)
    # A fault, not an answer: what `begin` and `observe` return is not looked at.
    act = POLICY_FAULTS[fault if where in ("first", "later") or fault == "hangs" else "raises"]
    faulty = Faulty(where, act)
    assert decoded(draft, target, [Fixed(3), faulty, Fixed(2)]) == expected
    assert any("'faulty' failed" in message for message in told.messages)


@pytest.mark.parametrize("after", [0, 2, 7, 20])
def test_the_draft_runs_out_of_memory(
    after: int,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[list[int]],
    told: pytest.LogCaptureFixture,
) -> None:
    with in_forward(draft, fails(OUT_OF_MEMORY), after):
        assert decoded(draft, target, [Fixed(3), Fixed(1), Faulty("", int)]) == expected
    assert len(told.messages) == 1


@pytest.mark.parametrize("row", range(ROWS))
@pytest.mark.parametrize("kind", SPOILT)
def test_the_draft_computes_no_numbers_in_one_row(
    kind: str,
    row: int,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[list[int]],
    told: pytest.LogCaptureFixture,
) -> None:
    first = torch.tensor(PROMPTS[row])
    spoil = spoils(kind)

    def act(_: Any, given: tuple[Any, ...], output: Any) -> Any:
        if torch.equal(given[0][0, : len(first)], first):
            spoil(output)
        return output

    handle = draft.register_forward_hook(act)
    try:
        assert decoded(draft, target, [Fixed(3), Fixed(2), Fixed(4)]) == expected
    finally:
        handle.remove()
    assert len(told.messages) == 1


def test_the_texts_that_follow_try_the_draft_again(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    pair = cast(GraphPair, FakePair(draft, target))
    gammas: dict[int, list[int]] = {}
    with in_forward(draft, fails(OUT_OF_MEMORY), 1, once=True):
        for number, step, _ in speculate_texts(pair, TEXTS[:2], [Fixed(2)]):
            gammas.setdefault(number, []).append(step.gamma)
    assert gammas[0][0] == 1  # what was drafted before it failed is verified
    assert set(gammas[0][1:]) == {0}
    assert gammas[1][0] == 2


@pytest.mark.parametrize("act", [fails(OUT_OF_MEMORY), spoils("all NaN")], ids=["memory", "NaN"])
@pytest.mark.parametrize("after", [0, 4, 20])
def test_the_target_fails(
    after: int,
    act: Callable[[Any], None],
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[list[int]],
) -> None:
    found: dict[int, list[int]] = {}
    with in_forward(target, act, after), pytest.raises(TargetError):
        collect(FakePair(draft, target, ROWS), [Fixed(2)] * ROWS, found)
    for number, tokens in found.items():
        assert tokens == expected[number][: len(tokens)]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, top_k=6)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("after", [0, 1, 4, 8])
def test_where_graphs_fail_the_plain_loop_takes_all_texts_up(
    after: int,
    sampling: Sampling,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[list[int]],
    told: pytest.LogCaptureFixture,
) -> None:
    pair = cast(GraphPair, BrokenGraphs(draft, target, after=after, texts=ROWS))
    backend = Backend(draft, target, pair, "CUDA graphs")
    given: dict[str, Any] = {"sampling": sampling, "seed": 3}
    found = {number: tokens_of(steps) for number, steps in backend.texts(TEXTS, [Fixed(2)] * ROWS, **given)}
    if not sampling.greedy:
        expected = [plain(draft, target, prompt, Fixed(2), new, **given) for prompt, new, *_ in TEXTS]
    assert [found[number] for number in range(len(TEXTS))] == expected
    assert len(told.messages) == 1


@pytest.mark.parametrize("where", ["first", "later", "observe"])
def test_an_interruption(
    where: str, target: PreTrainedModel, draft: PreTrainedModel, expected: list[list[int]]
) -> None:
    pair = FakePair(draft, target, ROWS)
    found: dict[int, list[int]] = {}
    again: dict[int, list[int]] = {}
    with pytest.raises(KeyboardInterrupt):
        collect(pair, [Fixed(2), Faulty(where, raising(KeyboardInterrupt()), 2), Fixed(3)], found)
    for number, tokens in found.items():
        assert tokens == expected[number][: len(tokens)]
    collect(pair, [Fixed(3)] * ROWS, again)  # the same pair, whose buffers hold the unfinished texts
    assert [again[number] for number in range(len(TEXTS))] == expected
