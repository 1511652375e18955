"""Second choices verified beside the first: the target's own tokens all the same, in steps that a trace foretells."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from runtime.cuda import cache
from runtime.cuda.graphs import Graphs
from runtime.cuda.loop import speculate_greedily, speculate_texts
from runtime.cuda.pair import RESTS, GraphPair
from runtime.cuda.tokens import RESULT, Spares, accept, depths_with
from runtime.loop.generate import Step, speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.loop.texts import Text
from runtime.policies.adaptive import Adaptive
from runtime.policies.fixed import Fixed
from runtime.policies.guarded import Guarded
from runtime.policies.policy import LONGEST_SPARED, Drafted, Outcome
from runtime.policies.step_times import StepTimes
from runtime.profile.trace import trace
from runtime.replay.replay import replay, step_outcome
from runtime.replay.traces import Text as Trace
from runtime.replay.traces import TokenSignals, Verified
from runtime.stopper.stopper import Stopper
from tests.cuda.small import shorten_calls, small_pair
from tests.cuda.test_loop import Recorded
from tests.cuda.test_tokens import DEVICE, read_rows

TIMES = StepTimes({1: 0.02, 2: 0.03}, {1: 1.0, 2: 1.1, 3: 1.2, 17: 1.5}, ahead=True, spare_ms=0.0)
PROMPT = [5, 9, 33, 2, 17]
NEW = 10


class Sparing(Recorded):
    """Drafts a fixed number of tokens, and wants spares at some of their places."""

    def __init__(self, gamma: int, places: Sequence[int]) -> None:
        super().__init__(Fixed(gamma))
        self.places = places

    def spares(self, drafted: Drafted) -> list[int]:
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


@pytest.mark.parametrize(("gamma", "places"), [(2, [1, 0]), (4, [0, 3, 1])], ids=str)
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


def test_a_text_ends_at_its_token_and_its_budget(
    models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int]
) -> None:
    pair, end = GraphPair(*models, 1, 64, 8), 5
    short = list(speculate_greedily(pair, PROMPT, Sparing(3, [0, 1]), max_new_tokens=end))
    assert tokens(short) == outputs[:end]
    eos = outputs[end]
    cut = list(speculate_greedily(pair, PROMPT, Sparing(3, [0, 1]), max_new_tokens=NEW, eos=[eos]))
    assert tokens(cut) == outputs[: outputs.index(eos) + 1]


def test_no_more_than_fit_are_verified(models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int]) -> None:
    policy = Sparing(5, [4, 3, 2, 1, 0])
    assert tokens(run(models, policy)) == outputs
    assert (5, 2) in {(outcome.gamma, outcome.spares) for outcome in policy.outcomes}
    assert max(outcome.gamma + outcome.spares for outcome in policy.outcomes) == LONGEST_SPARED - 1


def test_no_more_than_a_pairs_calls_take_are_verified(
    models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int]
) -> None:
    policy = Sparing(3, [2, 1, 0])
    pair = GraphPair(*models, 1, 64, 4)  # whose calls take five tokens
    assert tokens(list(speculate_greedily(pair, PROMPT, policy, max_new_tokens=6))) == outputs[:6]
    assert max(outcome.gamma + outcome.spares for outcome in policy.outcomes) == 4


def test_a_policy_that_fails_to_say_where_loses_its_text_and_no_token(
    models: tuple[PreTrainedModel, PreTrainedModel], outputs: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    policy = Sparing(3, [])
    policy.spares = lambda drafted: [drafted.count]  # type: ignore[method-assign]
    steps = run(models, policy)
    assert tokens(steps) == outputs
    assert "policy 'recorded' failed (ValueError: it wants spares at [3] of 3 tokens)" in caplog.text
    assert steps[0].gamma == 3
    assert len(policy.outcomes) == 0


def test_a_policy_that_takes_its_time_over_spares_loses_its_text(
    models: tuple[PreTrainedModel, PreTrainedModel],
    outputs: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Guarded, "SLOW_S", 0.0)
    monkeypatch.setattr(Guarded, "PATIENCE", 5)
    assert tokens(run(models, Sparing(3, [0]))) == outputs
    assert "TimeoutError: 5 calls took longer" in caplog.text


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("spare", [False, True])
def test_logits_of_a_spare_that_are_no_numbers_choose_nothing(spare: bool, number: float) -> None:
    """Proposals 5 and 6, of which the target rejects the first for 7, the spare; then the spare's row says 9."""
    logits = torch.zeros(4, 50, device=DEVICE)
    logits[range(4), [7, 1, 1, 9]] = 5.0
    logits[3 if spare else 0, 20] = number
    best, signals = read_rows(logits)
    text, seconds = torch.zeros(2, 1, 20, dtype=torch.int32, device=DEVICE)
    text[0, 3:5] = torch.tensor([5, 6])
    seconds[0, 3] = best[0] if not spare else 7
    starts, gammas, depths = (torch.tensor([n], dtype=torch.int32, device=DEVICE) for n in (2, 2, depths_with(2, [0])))
    spares = Spares(depths, depths, seconds, torch.zeros(1, 2, dtype=torch.int32, device=DEVICE))
    results = torch.empty(1, RESULT, device=DEVICE)
    accept(text, starts, gammas, 4, best, signals, results, spares)
    assert results[0, 0] == 0
    assert results[0, 3].isnan()  # who reads it ends the text
    assert (results[0, 5] == -1) == (not spare)


def test_rows_of_different_spares_and_one_that_rests(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    """Verified side by side as they are alone."""
    prompts = [[5, 9, 33, 2, 17], [7, 1], [1, 2, 3, 1, 2, 3]]
    gammas, spares = [3, RESTS, 2], {0: [0, 2], 2: [1, 0]}
    pair = GraphPair(*models, 3, 64, 8)
    pair.begin(dict(enumerate(prompts)))
    for slot in range(3):
        pair.draft(slot, 1)
        pair.drafted(slot)
    pair.verify(gammas, spares=spares)
    together = pair.verified()
    for row, places in spares.items():
        alone = GraphPair(*models, 1, 64, 8)
        alone.begin({0: prompts[row]})
        for slot in range(gammas[row]):
            alone.draft(slot, 1)
            alone.drafted(slot)
        alone.verify([gammas[row]], spares={0: places})
        [one] = alone.verified()
        assert one[:2] == together[row][:2]
        assert one.signals == pytest.approx(together[row].signals, rel=1e-4, abs=1e-5, nan_ok=True)
        assert alone.starts[0] == pair.starts[row]
    assert together[1].accepted == RESTS
    assert pair.starts[1] == len(prompts[1]) - 1


@pytest.mark.parametrize(("texts", "sampling"), [(1, Sampling()), (2, Sampling()), (1, Sampling(temperature=1.0))])
def test_calls_with_spares_are_prepared_where_they_are_asked_for(
    models: tuple[PreTrainedModel, PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
    texts: int,
    sampling: Sampling,
) -> None:
    pair, names = GraphPair(*models, texts, 64, 5), []
    pair.choose(sampling)
    monkeypatch.setattr(Graphs, "run", lambda _, name, __: names.append(name))
    monkeypatch.setattr(pair, "verified", list)
    monkeypatch.setattr(pair._verified, "begin", lambda _: None)
    monkeypatch.setattr(pair._drafted, "begin", lambda _: None)
    pair.warm_up()
    spared = [name[1] for name in names if name[0] == "verify" and name[2]]
    assert spared == ([3, 4, 5, 6] if texts == 1 and sampling.greedy else [])


def test_who_samples_or_has_others_beside_it_verifies_none(models: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    policies = [Sparing(3, [0]), Sparing(3, [0])]
    list(speculate_texts(GraphPair(*models, 2, 64, 8), [Text(PROMPT, 4)] * 2, policies))
    sampled = Sparing(3, [0])
    one = GraphPair(*models, 1, 64, 8)
    list(speculate_texts(one, [Text(PROMPT, 4)], [sampled], sampling=Sampling(temperature=1.0)))
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
