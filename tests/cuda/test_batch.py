"""Several texts side by side on a `GraphPair`: every row does what its text does alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from runtime.cuda import pair as pair_module
from runtime.cuda.loop import speculate_texts
from runtime.cuda.pair import GraphPair
from runtime.errors import SpeckvError
from runtime.loop.backend import Backend
from runtime.loop.generate import Step, speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.loop.texts import Text
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Outcome, Policy
from tests.cuda.small import shorten_calls, small_pair
from tests.cuda.test_loop import NowAndThen, Recorded
from tests.loop.fakes import StopWhenUnsure

Pair = tuple[PreTrainedModel, PreTrainedModel]
VOCABULARY = 32


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calls(monkeypatch)


@pytest.fixture(scope="module")
def models() -> Pair:
    return small_pair(VOCABULARY)


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def side_by_side(pair: GraphPair, texts: Sequence[Text], policies: Sequence[Policy]) -> list[list[Step]]:
    """Return the steps of each text; the last of each, and no other, says that it has ended."""
    found: list[list[Step]] = [[] for _ in texts]
    ended = [False] * len(texts)
    for number, step, last in speculate_texts(pair, texts, policies):
        assert not ended[number]
        found[number].append(step)
        ended[number] = last
    assert all(ended)
    return found


def alone(models: Pair, text: Text, policy: Policy) -> list[Step]:
    prompt, new, eos, stop = text
    return list(speculate(*cached_pair(*models), prompt, policy, max_new_tokens=new, eos=eos, stop=stop))


def check(found: Sequence[Sequence[Step]], expected: Sequence[Sequence[Step]]) -> None:
    """The same tokens; and the same acceptance and signals, which a draft that saw anything else would not have."""
    for own, wanted in zip(found, expected, strict=True):
        assert [step.tokens for step in own] == [step.tokens for step in wanted]
        assert [(step.gamma, step.accepted) for step in own] == [(step.gamma, step.accepted) for step in wanted]
        for step, other in zip(own, wanted, strict=True):
            for signals, others in zip(step.drafted.tokens, other.drafted.tokens, strict=True):
                assert signals == pytest.approx(others, rel=1e-3, abs=1e-4)


def test_each_row_has_its_own_policy_length_and_end(models: Pair) -> None:
    policies = [Fixed(4), Fixed(0), StopWhenUnsure(0.3, 3), NowAndThen(2)]
    lengths = 1, 11, 6, 3
    news = 7, 8, 3, 6
    texts = [Text(prompt, new) for prompt, new in zip(prompts(*lengths), news, strict=True)]
    found = side_by_side(GraphPair(*models, 4, 19, 4), texts, policies)
    check(found, [alone(models, text, policy) for text, policy in zip(texts, policies, strict=True)])


@pytest.mark.parametrize("plain", [(2, 4), (9, 9)], ids=["few", "more than a call takes"])
def test_a_draft_catches_up_after_plain_steps(models: Pair, plain: tuple[int, int]) -> None:
    policies = [NowAndThen(steps) for steps in plain]
    texts = [Text(prompt, 13) for prompt in prompts(1, 8)]
    found = side_by_side(GraphPair(*models, 2, 21, 3), texts, policies)
    check(found, [alone(models, text, policy) for text, policy in zip(texts, policies, strict=True)])
    assert all(any(step.gamma for step in steps) for steps in found)


def test_a_draft_catches_up_beside_a_new_text(models: Pair) -> None:
    """The second row's text ends after plain steps; the first drafts when the next one has just begun."""
    texts = [Text(prompt, new) for prompt, new in zip(prompts(2, 3, 4), (9, 3, 2), strict=True)]
    found = side_by_side(GraphPair(*models, 2, 12, 3), texts, [NowAndThen(3), NowAndThen(3)])
    check(found, [alone(models, text, NowAndThen(3)) for text in texts])
    assert [step.gamma for step in found[0]][3] == 3


class Timed(Fixed):
    """A policy of which the loop believes that it weighs time."""

    weighs_time = True


@pytest.mark.parametrize(
    ("policies", "gammas"),
    [
        ([Timed(4), Timed(1), Timed(1), Timed(0)], [1, 1, 1, 0]),
        ([Timed(4), Timed(3), Timed(1), Timed(0)], [3, 3, 1, 0]),
        ([Timed(2), Timed(0), Timed(0), Timed(0)], [0, 0, 0, 0]),
        ([Timed(4), Fixed(2), Timed(0), Timed(0)], [2, 2, 0, 0]),
        ([Fixed(4), Timed(3), Timed(0), Timed(0)], [4, 3, 0, 0]),
        ([Timed(4), Timed(0)], [4, 0]),
        ([Timed(4), Timed(0), Timed(0)], [0, 0, 0]),
        ([Timed(4)], [4]),
    ],
)
def test_those_that_weigh_time_draft_on_where_half_of_the_rows_do(
    models: Pair, policies: list[Policy], gammas: list[int]
) -> None:
    texts = [Text(prompt, 7) for prompt in prompts(3, 4, 5, 6)[: len(policies)]]
    found = side_by_side(GraphPair(*models, len(policies), 13, 4), texts, policies)
    assert [steps[0].gamma for steps in found] == gammas
    for steps, text in zip(found, texts, strict=True):
        plain = [token for step in alone(models, text, Fixed(0)) for token in step.tokens]
        assert [token for step in steps for token in step.tokens] == plain


class Asked(Timed):
    """Counts what it is told."""

    def __init__(self, gamma: int) -> None:
        super().__init__(gamma)
        self.outcomes = 0

    def observe(self, outcome: Outcome) -> None:  # noqa: ARG002  (counts alone)
        self.outcomes += 1


@pytest.mark.parametrize("draws", [None, Sampling(temperature=0.9)])
def test_few_of_many_rows_are_asked_and_the_others_follow(models: Pair, draws: Sampling | None) -> None:
    policies: list[Asked | Fixed] = [Asked(2), Asked(2), Asked(2), Asked(2), Asked(4), Fixed(1), Asked(4)]
    texts = [Text(prompt, 6) for prompt in prompts(3, 4, 5, 6, 2, 3, 4)]
    texts[1] = Text(texts[1].prompt, 1)  # ends first: the fifth row is asked from then on
    steps: dict[int, list[Step]] = {}
    for number, step, _ in speculate_texts(GraphPair(*models, 7, 13, 4), texts, policies, sampling=draws):
        steps.setdefault(number, []).append(step)
    assert [steps[number][0].gamma for number in range(7)] == [2, 0, 2, 2, 2, 1, 2]
    follower, successor = policies[6], policies[4]
    assert isinstance(follower, Asked)
    assert isinstance(successor, Asked)
    assert successor.outcomes == len(steps[4]) - 1  # but for the first step
    assert follower.outcomes < len(steps[6])  # where it is asked at all, it is when two more have ended
    for number, text in enumerate(texts):
        assert sum(len(step.tokens) for step in steps[number]) == text.max_new_tokens
        if draws is None:
            plain = [token for step in alone(models, text, Fixed(0)) for token in step.tokens]
            assert [token for step in steps[number] for token in step.tokens] == plain


def test_rows_that_are_free_take_the_next_texts(models: Pair) -> None:
    first, second, third, *others = prompts(5, 11, 1, 3, 9)
    whole = [token for step in alone(models, Text(second, 8), Fixed(2)) for token in step.tokens]
    texts = [
        Text(first, 2),
        Text(second, 8, eos=[whole[4]]),
        Text(third, 6, stop=lambda before, new: len(before) + len(new) == 4),
        *(Text(prompt, 5) for prompt in others),
        Text(first, 0),
        Text(first, 6),
    ]
    pair = GraphPair(*models, 2, 20, 3)
    found = {number: list[Step]() for number in range(len(texts))}
    for number, step, _ in speculate_texts(pair, iter(texts), [Fixed(2), Fixed(2)]):
        found[number].append(step)
    check(list(found.values()), [alone(models, text, Fixed(2)) for text in texts])
    assert len([token for step in found[2] for token in step.tokens]) == 3
    assert found[5] == []


def test_sixty_four_rows(models: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_module, "CHUNK", 4)
    texts = [Text(prompt, 1 + n % 2) for n, prompt in enumerate(prompts(*(1 + n % 5 for n in range(64))))]
    policies = [Fixed(n // 2 % 2) for n in range(64)]
    found = side_by_side(GraphPair(*models, 64, 8, 1), texts, policies)
    check(found, [alone(models, text, policy) for text, policy in zip(texts, policies, strict=True)])


def test_a_row_that_rests_stays_as_it_is_and_in_its_place(models: Pair) -> None:
    whole, part = prompts(10, 2)
    pair = GraphPair(*models, 2, 12, 6)
    steps = speculate_texts(pair, [Text(whole, 2), Text(part, 8)], [Fixed(1), Fixed(6)])
    kept: Tensor | None = None
    for number, _, ended in steps:
        if number == 0 and ended:
            kept = pair.text[0, :12].clone()
        elif kept is not None:
            assert pair.starts[0] == 11
            assert pair.text[0, :12].equal(kept)
    assert kept is not None
    for model in (pair.draft_model, pair.target_model):
        assert model.keys.any()
        assert not model.keys[..., -1, :].any()  # nothing was written beyond what a row has room for


def known(policy: Recorded) -> list[bool]:
    """Whether each step's time was told."""
    times = [(math.isnan(outcome.draft_ms), math.isnan(outcome.verify_ms)) for outcome in policy.outcomes]
    assert all(draft == verify for draft, verify in times)
    return [not draft for draft, _ in times]


def test_times_are_unknown_after_prompts_were_read(models: Pair) -> None:
    policies = [Recorded(Fixed(0)), Recorded(Fixed(0))]
    texts = [Text(prompt, new) for prompt, new in zip(prompts(3, 3, 3), (4, 2, 2), strict=True)]
    side_by_side(GraphPair(*models, 2, 16, 3), texts, policies)
    assert [known(policy) for policy in policies] == [[False, True, False, True]] * 2


def test_only_the_longest_gamma_is_told_its_times(models: Pair) -> None:
    policies = [Recorded(Fixed(3)), Recorded(Fixed(1))]
    texts = [Text(prompt, 7) for prompt in prompts(3, 4)]
    side_by_side(GraphPair(*models, 2, 16, 3), texts, policies)
    assert [known(policy)[1] for policy in policies] == [True, False]


def test_the_backend_gives_each_text_when_it_has_ended(models: Pair) -> None:
    backend = Backend(*models, GraphPair(*models, 2, 12, 3), "CUDA graphs")
    texts = [Text(prompt, new) for prompt, new in zip(prompts(3, 2, 4), (6, 2, 3), strict=True)]
    found = dict(backend.texts(texts, [Fixed(0)] * backend.rows))
    assert list(found) == [1, 2, 0]
    check([found[number] for number in range(3)], [alone(models, text, Fixed(0)) for text in texts])


def test_a_text_beyond_its_row_is_refused(models: Pair) -> None:
    pair = GraphPair(*models, 1, 8, 2)
    (prompt,) = prompts(6)
    with pytest.raises(SpeckvError, match="text of 9 tokens"):
        next(speculate_texts(pair, [Text(prompt, 3)], [Fixed(2)]))
