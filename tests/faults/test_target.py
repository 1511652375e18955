"""A target that runs out of memory or computes no numbers: one clear error, and the steps before it stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from runtime import SpeckvError
from runtime.cuda.loop import speculate_greedily
from runtime.cuda.pair import GraphPair
from runtime.errors import TargetError
from runtime.loop.backend import Backend
from runtime.loop.generate import Step, speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.policies.fixed import Fixed
from tests.faults.injections import OUT_OF_MEMORY, SPOILT, fails, in_forward, spoils
from tests.faults.loops import LOOPS, FakePair, tokens_of
from tests.faults.test_draft import changes_cache
from tests.loop.test_greedy import own_tokens

PROMPT, NEW = [3, 1, 4, 1, 5], 24
Loop = Callable[[PreTrainedModel, PreTrainedModel, int], Iterator[Step]]


def plain(draft: PreTrainedModel, target: PreTrainedModel, gamma: int) -> Iterator[Step]:
    return speculate(*cached_pair(draft, target), PROMPT, Fixed(gamma), max_new_tokens=NEW)


def sampled(draft: PreTrainedModel, target: PreTrainedModel, gamma: int) -> Iterator[Step]:
    scorers = cached_pair(draft, target)
    return speculate(*scorers, PROMPT, Fixed(gamma), max_new_tokens=NEW, sampling=Sampling(0.9), seed=5)


def graphs(draft: PreTrainedModel, target: PreTrainedModel, gamma: int) -> Iterator[Step]:
    pair = cast(GraphPair, FakePair(draft, target))
    return speculate_greedily(pair, PROMPT, Fixed(gamma), max_new_tokens=NEW)


STEPS: dict[str, Loop] = {"plain": plain, "sampled": sampled, "graphs": graphs}


@pytest.fixture(scope="module")
def expected(target: PreTrainedModel) -> list[int]:
    return own_tokens(target, PROMPT, NEW)


def until_it_fails(steps: Iterator[Step]) -> tuple[list[int], SpeckvError]:
    taken: list[Step] = []
    with pytest.raises(SpeckvError) as error:
        taken.extend(steps)  # keeps what came before the error
    return tokens_of(taken), error.value


@pytest.mark.parametrize("after", [0, 1, 2, 4])
@pytest.mark.parametrize("gamma", [0, 3])
@pytest.mark.parametrize("error", [OUT_OF_MEMORY, RuntimeError("cuBLAS failed")], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("loop", STEPS)
def test_failing(
    loop: str, error: Exception, gamma: int, after: int, target: PreTrainedModel, draft: PreTrainedModel
) -> None:
    whole = tokens_of(list(STEPS[loop](draft, target, gamma)))
    with in_forward(target, fails(error), after):
        tokens, said = until_it_fails(STEPS[loop](draft, target, gamma))
    assert tokens == whole[: len(tokens)]
    assert isinstance(said, TargetError)
    assert said.__cause__ is error
    assert type(error).__name__ in str(said)
    assert ("memory" in str(said)) == (error is OUT_OF_MEMORY)
    if after > 1 or loop == "graphs":
        assert len(tokens) >= after - 1


@pytest.mark.parametrize("after", [1, 2, 4])
@pytest.mark.parametrize("gamma", [0, 3])
@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("loop", STEPS)
def test_logits_that_are_no_numbers(
    loop: str, kind: str, gamma: int, after: int, target: PreTrainedModel, draft: PreTrainedModel
) -> None:
    whole = tokens_of(list(STEPS[loop](draft, target, gamma)))
    with in_forward(target, spoils(kind), after):
        if loop == "plain" and "infinite" in kind:  # the likeliest token there is: see below
            assert len(tokens_of(list(STEPS[loop](draft, target, gamma)))) == NEW
        else:
            tokens, said = until_it_fails(STEPS[loop](draft, target, gamma))
            assert "not numbers" in str(said)
            assert tokens == whole[: len(tokens)]


def test_infinite_logits_are_decoded_as_generate_does(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    def act(output: Any) -> None:
        output.logits = torch.where(output.logits > 3.0, torch.inf, output.logits)

    with in_forward(target, act):
        expected = own_tokens(target, PROMPT, NEW)
        for gamma in (0, 2, 5):
            assert tokens_of(list(plain(draft, target, gamma))) == expected


@pytest.mark.parametrize("loop", ["plain", "sampled"])
def test_a_proposal_that_looks_like_the_choice_of_no_numbers_does_not_stand(
    loop: str, target: PreTrainedModel, draft: PreTrainedModel
) -> None:
    """argmax takes the first NaN for the likeliest: a draft that proposes that very token must not be believed."""

    def nothing_but_token_5(output: Any) -> None:
        output.logits = torch.zeros_like(output.logits)
        output.logits[..., 5] = 90.0

    def first_row(output: Any) -> None:
        if output.logits.shape[1] > 1:  # a verification; its later rows are sound
            output.logits = output.logits.clone()
            output.logits[:, 0, 5:] = torch.nan

    with in_forward(draft, nothing_but_token_5), in_forward(target, first_row):
        tokens, said = until_it_fails(STEPS[loop](draft, target, 2))
    assert not tokens
    assert "not numbers after 5 tokens" in str(said)


@pytest.mark.parametrize("kind", ["sliding", "forgetful", "new"])
@pytest.mark.parametrize("gamma", [2, 4])
def test_that_changes_its_cache_type(
    gamma: int, kind: str, target: PreTrainedModel, draft: PreTrainedModel, expected: list[int]
) -> None:
    with in_forward(target, changes_cache(kind), 2, once=True):
        tokens, _ = until_it_fails(plain(draft, target, gamma))
    assert tokens == expected[: len(tokens)]


@pytest.mark.parametrize("act", [fails(OUT_OF_MEMORY), spoils("all NaN")], ids=["memory", "NaN"])
@pytest.mark.parametrize("loop", ["custom generate"])
def test_generate_raises_as_torch_does_and_its_streamer_has_what_came_before(
    loop: str, act: Callable[[Any], None], target: PreTrainedModel, draft: PreTrainedModel, expected: list[int]
) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.ended = False

        def put(self, value: torch.Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    streamer = Streamer()
    with in_forward(target, act, 4), pytest.raises(RuntimeError, match=r"after \d+ tokens of text"):
        LOOPS[loop](draft, target, PROMPT, Fixed(2), NEW, streamer=streamer)
    written = streamer.tokens[len(PROMPT) :]
    assert len(written) >= 3
    assert written == expected[: len(written)]
    assert streamer.ended


class BrokenGraphs(FakePair):
    """A pair whose graphs fail at some verification, or at the prompt."""

    def __init__(self, *models: PreTrainedModel, after: int, texts: int = 1) -> None:
        super().__init__(*models, texts)
        self.left = after

    def verify(self, gammas: Any, uniforms: Any = (), spares: Any = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise OUT_OF_MEMORY
        super().verify(gammas, uniforms, spares)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_where_graphs_fail_the_plain_loop_takes_the_text_up(
    after: int,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
) -> None:
    pair = cast(GraphPair, BrokenGraphs(draft, target, after=after))
    backend = Backend(draft, target, pair, "CUDA graphs")
    assert tokens_of(list(backend.steps(PROMPT, Fixed(2), max_new_tokens=NEW))) == expected
    assert len(told.messages) == 1
    assert "plain loop" in told.messages[0]
