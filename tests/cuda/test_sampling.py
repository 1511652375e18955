"""Sampling on the fast loop: for every seed the plain loop's tokens, steps and acceptance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import PreTrainedModel

from runtime.cuda import draws as draws_module
from runtime.cuda.draws import Draws
from runtime.cuda.loop import speculate_texts
from runtime.cuda.pair import GraphPair
from runtime.cuda.tokens import RESULT
from runtime.loop.accept import accept_sampled
from runtime.loop.generate import Step, speculate
from runtime.loop.sampling import Sampling, draw
from runtime.loop.scorer import cached_pair
from runtime.loop.texts import Text
from runtime.loop.uniforms import Uniforms
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from tests.cuda.small import shorten_calls, small_pair
from tests.cuda.test_loop import NowAndThen
from tests.faults.loops import FakePair
from tests.integrations.transformers.pairs import noisy
from tests.loop.fakes import Erratic, StopWhenUnsure
from tests.loop.tiny import tiny_model
from tests.lossless.policies import POLICIES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = 32
WAYS = Sampling(1.0), Sampling(0.7, top_k=9), Sampling(1.6, top_p=0.8)
Pair = tuple[PreTrainedModel, PreTrainedModel]


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calls(monkeypatch)


@pytest.fixture(scope="module")
def models() -> Pair:
    return small_pair(VOCABULARY)


@pytest.fixture(scope="module")
def others() -> Pair:
    target = tiny_model(1)
    return noisy(target, 0.1), target


class LongFakePair(FakePair):
    longest = 16


def side_by_side(
    pair: FakePair | GraphPair, texts: Sequence[Text], policies: Sequence[Policy], way: Sampling, seed: int
) -> list[list[Step]]:
    found: list[list[Step]] = [[] for _ in texts]
    for number, step, _ in speculate_texts(cast(GraphPair, pair), texts, policies, sampling=way, seed=seed):
        found[number].append(step)
    return found


def alone(models: Pair, text: Text, policy: Policy, way: Sampling, seed: int) -> list[Step]:
    prompt, new, eos, stop = text
    return list(
        speculate(
            *cached_pair(*models), prompt, policy, max_new_tokens=new, sampling=way, eos=eos, stop=stop, seed=seed
        )
    )


def check(found: Sequence[Step], expected: Sequence[Step]) -> None:
    done = [[(step.tokens, step.gamma, step.accepted) for step in steps] for steps in (found, expected)]
    assert done[0] == done[1]
    for step, other in zip(found, expected, strict=True):
        for signals, wanted in zip(step.drafted.tokens, other.drafted.tokens, strict=True):
            assert signals == pytest.approx(wanted, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_has_the_plain_loops_tokens(others: Pair, name: str) -> None:
    """Without kernels: the order of random numbers, and what becomes of tokens that were drafted for nothing."""
    make = POLICIES[name]
    texts = [Text([3, 1, 4], 14), Text([5], 6), Text([2] * 7, 10)]
    for seed, way in enumerate(WAYS):
        policies = [make() for _ in texts]
        found = side_by_side(LongFakePair(*others, len(texts)), texts, policies, way, seed)
        for steps, text in zip(found, texts, strict=True):
            check(steps, alone(others, text, make(), way, seed))


def test_rows_of_different_policies_that_draft_all_they_can(others: Pair) -> None:
    """The token after the longest draft is begun for every row, whatever the row had asked for."""
    policies: list[Policy] = [Fixed(6), StopWhenUnsure(0.5, 4), Fixed(0), Fixed(6), NowAndThen(2), Erratic(3)]
    again: list[Policy] = [Fixed(6), StopWhenUnsure(0.5, 4), Fixed(0), Fixed(6), NowAndThen(2), Erratic(3)]
    texts = [Text([7 + n], 30 - n) for n in range(len(policies))]
    found = side_by_side(FakePair(*others, len(texts)), texts, policies, Sampling(1.0), 4)
    for steps, text, policy in zip(found, texts, again, strict=True):
        if not isinstance(policy, Erratic):  # who asks for more than the pair has, and is given less
            check(steps, alone(others, text, policy, Sampling(1.0), 4))


@pytest.mark.parametrize(
    ("policy", "way", "seed"),
    [
        (Fixed(0), WAYS[0], 1),
        (Fixed(3), WAYS[1], 2),
        (StopWhenUnsure(0.3, 5), WAYS[2], 3),
        (NowAndThen(2), WAYS[0], 4),
    ],
    ids=["plain", "fixed, top k", "unsure, top p", "now and then"],
)
def test_steps_are_those_of_the_plain_loop(models: Pair, policy: Policy, way: Sampling, seed: int) -> None:
    text = Text([5, 9, 2, 6, 5, 3], 10)
    (found,) = side_by_side(GraphPair(*models, 1, 32, 6), [text], [policy], way, seed)
    check(found, alone(models, text, policy, way, seed))


def test_each_row_is_the_text_alone(models: Pair) -> None:
    """Rows of their own gamma and end; a free one takes the next text, while one rests."""
    policies: list[Policy] = [Fixed(3), StopWhenUnsure(0.3, 3), Fixed(1)]
    texts = [Text([4], 9), Text([8, 1, 3], 4), Text([7, 7], 2), Text([4], 4)]
    found = side_by_side(GraphPair(*models, 3, 12, 3), texts, policies, WAYS[0], 5)
    rows = [0, 1, 2, 2]
    for steps, text, row in zip(found, texts, rows, strict=True):
        check(steps, alone(models, text, policies[row], WAYS[0], 5))
    assert found[0][0].tokens[:1] == found[3][0].tokens[:1]  # one seed for every text


def test_a_pair_decodes_greedily_and_draws_in_turn(models: Pair) -> None:
    pair, text = GraphPair(*models, 1, 16, 3), Text([3, 1, 4], 5)
    for way in (WAYS[0], Sampling(), WAYS[1], WAYS[0]):
        (found,) = side_by_side(pair, [text], [Fixed(2)], way, 8)
        check(found, alone(models, text, Fixed(2), way, 8))


def random_step(texts: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits of the target and of the draft, a text each in which proposals begin at 1, and uniforms."""
    generator = torch.Generator().manual_seed(texts * 100 + width)
    target = 2 * torch.randn(texts, width, VOCABULARY, generator=generator)
    draft = (target[:, :-1] + 0.7 * torch.randn(texts, width - 1, VOCABULARY, generator=generator)).transpose(0, 1)
    text = torch.randint(0, VOCABULARY, (texts, width + 2), generator=generator, dtype=torch.int32)
    uniforms = torch.rand(2, texts, width, generator=generator, dtype=torch.float64)
    return target.to(DEVICE), draft.contiguous().to(DEVICE), text.to(DEVICE), uniforms


@pytest.mark.parametrize("at_once", [128, 7])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_drawing_and_accepting_are_those_of_the_plain_loop(
    way: Sampling, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws_module, "AT_ONCE", at_once)
    texts, width = 40, 5
    target, drafted, text, uniforms = random_step(texts, width)
    starts = torch.zeros(texts, dtype=torch.int32, device=DEVICE)
    gammas = torch.arange(texts, dtype=torch.int32, device=DEVICE) % (width + 1) - 1
    draws = Draws(way, drafted, [starts])
    for slot in range(width - 1):
        signals = torch.zeros(texts, 5, device=DEVICE)
        draws.give_draft(slot, uniforms[0, :, slot].tolist())
        draws.draft(slot, drafted[slot], signals, text, starts)
        assert signals[:, 3].tolist() == text[:, slot + 1].tolist()
    before, results = text.clone(), torch.zeros(texts, RESULT, device=DEVICE)
    draws.give_verification([u[: gamma + 1] for u, gamma in zip(uniforms[1].tolist(), gammas.tolist(), strict=True)])
    signals = torch.randn(texts * width, 5, device=DEVICE)
    draws.accept(target.flatten(0, 1), signals, text, starts, gammas, results)
    for row, gamma in enumerate(gammas.tolist()):
        if gamma < 0:
            assert starts[row] == 0
            assert text[row].equal(before[row])
            continue
        q = way.probabilities(drafted[:gamma, row]) if gamma else None
        if q is not None:
            tokens = draw(q, uniforms[0, row, :gamma].to(DEVICE))
            assert before[row, 1 : gamma + 1].tolist() == tokens.tolist()
        p, proposed = way.probabilities(target[row, : gamma + 1]), before[row, 1 : gamma + 1].long()
        accepted, token = accept_sampled(p, q, proposed, uniforms[1, row, : gamma + 1].to(DEVICE))
        assert results[row, :2].tolist() == [accepted, token]
        assert results[row, 2:4].equal(signals.view(texts, width, 5)[row, accepted, :2])
        assert bool(results[row, 4].isnan()) == (accepted == gamma)
        assert starts[row] == accepted + 1
        assert text[row, accepted + 1] == token
        assert text[row, : accepted + 1].equal(before[row, : accepted + 1])
    assert {*results[:, 0].tolist()} == {-1, 0, 1, 2, 3, 4}
    assert results[results[:, 0] < 0, 4].isnan().all()


def test_what_no_numbers_chose_is_not_accepted() -> None:
    target, drafted, text, _ = random_step(1, 3)
    target[0, 1] = torch.nan
    starts, gammas = torch.zeros(1, dtype=torch.int32, device=DEVICE), torch.tensor([2], device=DEVICE).int()
    draws, results = Draws(WAYS[0], drafted, [starts]), torch.zeros(1, RESULT, device=DEVICE)
    draws.give_verification([[0.0, 0.0, 0.5]])
    draws.accept(target.flatten(0, 1), target[0, :, :5].contiguous(), text, starts, gammas, results)
    assert results[0, 0] == 1
    assert results[0, 2:4].isnan().all()
    assert 0 <= results[0, 1] < VOCABULARY


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_nothing_waits_for_the_device(way: Sampling) -> None:
    """What needs a value on the host raises on tensors that have none."""
    texts, width = 3, 4
    with FakeTensorMode():
        text, starts = torch.zeros(texts, 9, dtype=torch.int32), torch.zeros(texts, dtype=torch.int32)
        logits = torch.zeros(width, texts, VOCABULARY, dtype=torch.float16)
        draws = Draws(way, logits, [starts])
        draws.draft(1, logits[1], torch.zeros(texts, 5), text, starts)
        target, signals = torch.zeros(texts * width, VOCABULARY), torch.zeros(texts * width, 5)
        draws.accept(target, signals, text, starts, torch.zeros_like(starts), torch.zeros(texts, RESULT))
        with pytest.raises(DataDependentOutputException):
            int(starts[0])


def test_numbers_ahead_are_those_that_come() -> None:
    uniforms = Uniforms(3)
    ahead = uniforms.ahead(150)
    assert [*uniforms.take(1), *uniforms.take(0), *uniforms.take(149)] == ahead
    generator = torch.Generator().manual_seed(3)
    one_by_one = [float(torch.rand((), generator=generator, dtype=torch.float64)) for _ in range(130)]
    assert [*one_by_one, *torch.rand(20, generator=generator, dtype=torch.float64).tolist()] == ahead
