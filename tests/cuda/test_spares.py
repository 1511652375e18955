"""Second choices verified beside the first: the target's own tokens all the same, in steps that a trace foretells."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from runtime.cuda import cache
from runtime.cuda.loop import speculate_greedily, speculate_texts
from runtime.cuda.pair import GraphPair
from runtime.loop.generate import Step, speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.loop.texts import Text
from runtime.policies.adaptive import Adaptive
from runtime.policies.fixed import Fixed
from runtime.policies.policy import MOST_ROWS, Drafted, Outcome
from runtime.policies.step_times import StepTimes
from runtime.profile.trace import trace
from runtime.replay.replay import replay, step_outcome
from runtime.replay.traces import Text as Trace
from runtime.replay.traces import TokenSignals, Verified
from runtime.stopper.stopper import Stopper
from tests.cuda.small import shorten_calls, small_pair
from tests.cuda.test_loop import Recorded
from tests.cuda.test_tokens import DEVICE

TIMES = StepTimes({1: 0.02, 2: 0.03}, {1: 1.0, 2: 1.1, 3: 1.2, 17: 1.5}, ahead=True, spare_ms=0.0)
PROMPT = [5, 9, 33, 2, 17]
NEW = 24


class Sparing(Recorded):
    """Drafts a fixed number of tokens, and wants spares at some of their places."""

    def __init__(self, gamma: int, places: Sequence[int]) -> None:
        super().__init__(Fixed(gamma))
        self.places, self.asked = places, 0

    def spares(self, drafted: Drafted) -> list[int]:
        self.asked += 1
        return [place for place in self.places if place < drafted.count]


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_calls(monkeypatch)


@pytest.fixture(scope="module")
def models() -> tuple[PreTrainedModel, PreTrainedModel]:
    """A target whose texts vary, and a draft whose first choices are right now and then, and else its second ones."""
    _, target = small_pair(64)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in target.parameters():
            weight.mul_(3.0 if weight.dim() > 1 else 1.0)
        table = target.model.embed_tokens.weight
        table.copy_(torch.randn(table.shape, generator=random))
        draft = copy.deepcopy(target)
        for weight in draft.parameters():
            weight.add_(0.05 * weight.std() * torch.randn(weight.shape, generator=random).to(DEVICE))
    return draft, target


@pytest.fixture(scope="module")
def outputs(models: tuple[PreTrainedModel, PreTrainedModel]) -> list[int]:
    steps = speculate(*cached_pair(*models), PROMPT, Fixed(0), max_new_tokens=NEW)
    return [token for step in steps for token in step.tokens]


@pytest.fixture(scope="module")
def traced(models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int]) -> Trace:
    """The trace of the text, as a replay reads it, but not rounded by a file."""
    found = trace(*models, PROMPT, outputs)
    rollouts = [[TokenSignals(*token) for token in row] for row in found.rollouts[:, :, 1:].tolist()]
    accepted = found.rollouts[:, :, 0].sum(1).astype(int).tolist()
    verified = [Verified(*row) for row in found.verified.tolist()]
    return Trace("0_code", "code", rollouts, accepted, verified, found.seconds.tolist())


def run(models: tuple[PreTrainedModel, PreTrainedModel], policy: Recorded | Adaptive) -> list[Step]:
    return list(speculate_greedily(GraphPair(*models, 1, 64, 8), PROMPT, policy, max_new_tokens=NEW))


def tokens(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps for token in step.tokens]


@pytest.mark.parametrize(
    ("gamma", "places"), [(1, [0]), (2, [1, 0]), (3, [2]), (4, [0, 3, 1]), (6, [5]), (3, [])], ids=str
)
def test_the_steps_are_those_that_the_trace_foretells(
    models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int], traced: Trace, gamma: int, places: list[int]
) -> None:
    policy = Sparing(gamma, places)
    steps = run(models, policy)
    assert tokens(steps) == outputs
    position = 0
    for step, found in zip(steps, policy.outcomes, strict=True):
        drafted = min(gamma, NEW - position - 1)
        wanted = [place for place in places if place < drafted]
        expected = step_outcome(traced, position, drafted, spares=wanted)
        assert (found.gamma, found.accepted, found.spares, found.spared) == (
            *(expected.gamma, expected.accepted, len(wanted), expected.spared),
        )
        if position + expected.tokens < NEW:  # a trace ends with the text
            assert found[2:5] == pytest.approx(expected[2:5], rel=2e-3, abs=2e-3, nan_ok=True)
        assert (step.spared, len(step.tokens)) == (expected.spared, expected.tokens)
        position += expected.tokens
    if 0 in places:  # others are seldom right here
        assert any(step.spared for step in steps)


def test_a_spare_that_stands_is_moved_to_its_place(
    models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left where it was verified, the tokens after it would be others."""
    monkeypatch.setattr("runtime.cuda.decoder.move", lambda *_: None)
    assert tokens(run(models, Sparing(4, [0, 1, 2]))) != outputs


def test_keys_and_values_are_copied_where_they_are_to_be_moved() -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(2, 3, 2, 3, 7, 5, device=DEVICE)  # of three layers, two texts and three heads
    before = keys.clone(), values.clone()
    cache.move(keys, values, torch.tensor([[-1, 2], [6, 1]], dtype=torch.int32, device=DEVICE))
    for now, old in zip((keys, values), before, strict=True):
        assert torch.equal(now[:, 1, :, 1], old[:, 1, :, 6])
        now[:, 1, :, 1] = old[:, 1, :, 1]
        assert torch.equal(now, old)


@pytest.mark.parametrize("end", range(1, 12))
def test_a_text_ends_at_its_token_and_its_budget(
    models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int], end: int
) -> None:
    pair = GraphPair(*models, 1, 64, 8)
    short = list(speculate_greedily(pair, PROMPT, Sparing(3, [0, 1]), max_new_tokens=end))
    assert tokens(short) == outputs[:end]
    eos = outputs[end]
    cut = list(speculate_greedily(pair, PROMPT, Sparing(3, [0, 1]), max_new_tokens=NEW, eos=[eos]))
    assert tokens(cut) == outputs[: outputs.index(eos) + 1]


def test_no_more_than_fit_are_verified(models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int]) -> None:
    policy = Sparing(5, [4, 3, 2, 1, 0])
    assert tokens(run(models, policy)) == outputs
    assert {(outcome.gamma, outcome.spares) for outcome in policy.outcomes} >= {(5, 2), (4, 3)}
    assert max(outcome.gamma + outcome.spares for outcome in policy.outcomes) == MOST_ROWS - 1
    policy = Sparing(3, [2, 1, 0])
    pair = GraphPair(*models, 1, 64, 4)  # whose calls take five tokens
    assert tokens(list(speculate_greedily(pair, PROMPT, policy, max_new_tokens=NEW))) == outputs
    assert max(outcome.gamma + outcome.spares for outcome in policy.outcomes) == 4


@pytest.mark.parametrize(
    "wrong",
    [lambda _: [0, 0], lambda _: [-1], lambda drafted: [drafted.count], lambda _: ["1"], lambda _: 1 / 0, lambda _: 3],
    ids=["twice", "negative", "beyond", "text", "raises", "number"],
)
def test_a_policy_that_fails_to_say_where_loses_its_text_and_no_token(
    models: tuple[PreTrainedModel, PreTrainedModel],
    outputs: list[int],
    wrong: Callable[[Drafted], list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = Sparing(3, [])
    policy.spares = wrong  # type: ignore[method-assign]
    steps = run(models, policy)
    assert tokens(steps) == outputs
    assert "policy 'recorded' failed" in caplog.text
    assert steps[0].gamma == 3
    assert len(policy.outcomes) == 0


def test_who_samples_or_has_others_beside_it_verifies_none(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    policies = [Sparing(3, [0]), Sparing(3, [0])]
    list(speculate_texts(GraphPair(*models, 2, 64, 8), [Text(PROMPT, 6)] * 2, policies))
    sampled = Sparing(3, [0])
    one = GraphPair(*models, 1, 64, 8)
    list(speculate_texts(one, [Text(PROMPT, 6)], [sampled], sampling=Sampling(temperature=1.0)))
    assert not any(outcome.spares for policy in (*policies, sampled) for outcome in policy.outcomes)


@pytest.mark.parametrize("graphs", [True, False], ids=["with", "without"])
def test_adaptive_takes_the_same_steps_live_and_in_a_replay(
    models: tuple[PreTrainedModel, PreTrainedModel],
    outputs: list[int],
    traced: Trace,
    monkeypatch: pytest.MonkeyPatch,
    graphs: bool,
) -> None:
    """With and without the device's answers; its clock is taken away, which no replay has."""
    told: list[Outcome] = []

    class Untimed(Adaptive):
        def observe(self, outcome: Outcome) -> None:
            told.append(outcome)
            super().observe(outcome._replace(draft_ms=math.nan, verify_ms=math.nan))

    if not graphs:
        monkeypatch.setattr(Untimed, "device_rule", lambda _: None)
    steps = run(models, Untimed(Stopper(), TIMES))
    assert tokens(steps) == outputs
    live = [(outcome.gamma, outcome.accepted, outcome.spares, outcome.spared) for outcome in told]
    told.clear()
    [replayed] = replay([traced], Untimed(Stopper(), TIMES), TIMES)
    assert live == [(step.gamma, step.accepted, step.spares, step.spared) for step in replayed.steps]
    assert any(spares for _, _, spares, _ in live)


def test_adaptive_wants_spares_where_they_are_likely_and_nearly_free() -> None:
    policy = Adaptive(Stopper(), TIMES)
    assert policy.gamma(Drafted()) == 1
    sure, unsure = TokenSignals(0.1, 0.98, 0.01), TokenSignals(1.5, 0.5, 0.4)
    assert policy.spares(Drafted([sure, unsure, sure])) == [1]
    assert policy.spares(Drafted([unsure, unsure, unsure])) == [0, 1]  # two at most
    assert policy.spares(Drafted([sure])) == []
    steep = StepTimes(TIMES.draft, {1: 1.0, 2: 1.1, 4: 1.2, 5: 3.0}, ahead=True, spare_ms=0.0)
    dear = StepTimes(TIMES.draft, TIMES.target, ahead=True, spare_ms=1.0)
    unknown = StepTimes(TIMES.draft, TIMES.target, ahead=True)
    for times in (steep, dear, unknown):
        policy = Adaptive(Stopper(), times)
        policy.gamma(Drafted())
        assert policy.spares(Drafted([sure, unsure, sure])) == []
