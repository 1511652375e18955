"""Sampling: the loop's first three tokens have the target's exact distribution, whatever drafts and chooses gamma."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from runtime import GammaSelector, SpeckvError
from runtime.loop import generate as loop
from runtime.loop.generate import speculate
from runtime.loop.sampling import Sampling, draw
from runtime.loop.scorer import CachedModel, Scorer
from runtime.policies.adaedl import AdaEDL
from runtime.policies.bandit import Bandit
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from runtime.policies.registry import make_policy
from runtime.policies.speckv import SpecKV
from tests.loop.fakes import Erratic, StopWhenUnsure, TableScorer, Untimed
from tests.loop.tiny import tiny_model
from tests.policies.pairs import GRAPH
from tests.replay.tiny import TIMES

VOCABULARY = 4
LENGTH = 3
RUNS = 3000
FALSE_ALARM = 1e-4
"""Share of correct programs that this test would fail; the seeds are fixed, so a pass stays a pass."""
PROMPT = [1, 2]


def p_value(counts: Counter[tuple[int, ...]], exact: dict[tuple[int, ...], float]) -> float:
    """Chi-squared test of counts against exact probabilities; outcomes expected fewer than 5 times are pooled."""
    runs = sum(counts.values())
    common = [outcome for outcome, p in exact.items() if p * runs >= 5]
    observed, expected = [counts[outcome] for outcome in common], [exact[outcome] * runs for outcome in common]
    rest = runs - sum(expected)
    if rest >= 5:
        observed, expected = [*observed, runs - sum(observed)], [*expected, rest]
    scale = sum(observed) / sum(expected)
    return float(chisquare(observed, [value * scale for value in expected]).pvalue)


def sample(draft: Scorer, target: Scorer, policy: Policy, runs: int = RUNS) -> Counter[tuple[int, ...]]:
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(runs):
        draft.rollback(0)
        target.rollback(0)
        # More tokens than are looked at, so that no step is cut short by the end of the text.
        steps = speculate(
            draft, target, PROMPT, policy, max_new_tokens=LENGTH + 8, sampling=Sampling(temperature=1.0), seed=seed
        )
        tokens: list[int] = []
        while len(tokens) < LENGTH:
            tokens += next(steps).tokens
        counts[tuple(tokens[:LENGTH])] += 1
    return counts


@pytest.mark.parametrize("draft_seed", [1, 9], ids=["good draft", "bad draft"])
@pytest.mark.parametrize(
    "policy", ["none", "fixed 1", "fixed 3", "speckv", "adaedl", "bandit", "adaptive", "signal", "erratic"]
)
def test_first_three_tokens_have_the_targets_distribution(draft_seed: int, policy: str) -> None:
    target = TableScorer(VOCABULARY, seed=1)
    draft = TableScorer(VOCABULARY, seed=draft_seed)
    draft.table = draft.table + 0.3 * TableScorer(VOCABULARY, seed=5).table
    policies: dict[str, Policy] = {
        "none": Fixed(0),
        "fixed 1": Fixed(1),
        "fixed 3": Fixed(3),
        "speckv": SpecKV(GammaSelector(), "fp16", candidates=(1, 2, 4)),
        "adaedl": AdaEDL(),
        "bandit": Bandit(TIMES),
        "adaptive": Untimed(make_policy("adaptive", "fp16", GRAPH)),
        "signal": StopWhenUnsure(threshold=0.5, cap=4),
        "erratic": Erratic(),
    }
    counts = sample(draft, target, policies[policy])
    assert p_value(counts, target.sequence_probabilities(PROMPT, LENGTH)) > FALSE_ALARM


def test_a_biased_acceptance_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: a rule that forgets to subtract q from p in the resampling does not pass it."""

    def biased(p: Tensor, q: Tensor | None, proposed: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        for i, token in enumerate(proposed.tolist()):
            assert q is not None
            if u[i] * q[i, token] >= p[i, token]:
                return torch.tensor(i), draw(p[i], u[-1])
        return torch.tensor(len(proposed)), draw(p[-1], u[-1])

    monkeypatch.setattr(loop, "accept_sampled", biased)
    target = TableScorer(VOCABULARY, seed=1)
    counts = sample(TableScorer(VOCABULARY, seed=9), target, Fixed(2))
    assert p_value(counts, target.sequence_probabilities(PROMPT, LENGTH)) < FALSE_ALARM


def test_a_tiny_transformer_pair_with_temperature_and_top_k() -> None:
    """The same with real models, caches and warpers: the first two tokens."""
    vocabulary, runs, sampling = 6, 600, Sampling(temperature=1.3, top_k=4)
    target, draft = tiny_model(3, 2, vocabulary), tiny_model(4, 1, vocabulary)
    exact: dict[tuple[int, ...], float] = {}
    with torch.inference_mode():
        first = sampling.probabilities(target(torch.tensor([PROMPT])).logits[0, -1:])[0]
        for a in range(vocabulary):
            second = sampling.probabilities(target(torch.tensor([[*PROMPT, a]])).logits[0, -1:])[0]
            exact |= {(a, b): float(first[a] * second[b]) for b in range(vocabulary)}
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(runs):
        pair = CachedModel(draft), CachedModel(target)
        steps = speculate(*pair, PROMPT, Fixed(2), max_new_tokens=4, sampling=sampling, seed=seed)
        counts[tuple([token for step in steps for token in step.tokens][:2])] += 1
    assert all(exact[outcome] > 0 for outcome in counts)
    assert p_value(counts, exact) > FALSE_ALARM


def test_one_seed_gives_one_text() -> None:
    def text(seed: int) -> list[int]:
        pair = TableScorer(VOCABULARY, 9), TableScorer(VOCABULARY, 1)
        steps = speculate(*pair, PROMPT, Fixed(2), max_new_tokens=30, sampling=Sampling(1.0), seed=seed)
        return [token for step in steps for token in step.tokens]

    assert text(3) == text(3)
    assert text(3) != text(4)


def test_draw_never_returns_an_impossible_token() -> None:
    weights = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0])
    for u in (0.0, 0.25, 0.5, 0.75, 1 - 2**-53):
        assert int(draw(weights, torch.tensor(u, dtype=torch.float64))) in (1, 3)
    assert int(draw(weights, torch.tensor(0.4999, dtype=torch.float64))) == 1
    assert int(draw(weights, torch.tensor(0.5, dtype=torch.float64))) == 3


@pytest.mark.parametrize("temperature", [1e-40, 1e-6, 1e300])
def test_extreme_temperatures_still_give_probabilities(temperature: float) -> None:
    p = Sampling(temperature).probabilities(torch.tensor([[1.0, 3.0, -2.0], [0.0, 0.0, -40.0]]))
    assert p.sum(-1).tolist() == pytest.approx([1, 1])
    assert temperature > 1 or p[0].tolist() == pytest.approx([0, 1, 0], abs=1e-6)


def test_truncation_without_a_temperature_is_refused() -> None:
    with pytest.raises(SpeckvError, match="greedy"):
        Sampling(top_k=5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"temperature": -1.0}, "temperature"), ({"temperature": float("nan")}, "temperature"), ({"top_k": -1}, "top_k")]
    + [({"temperature": 1e-300}, "give 0, which is greedy"), ({"temperature": 1e-46}, "give 0, which is greedy")]
    + [({"top_p": value}, "top_p") for value in (0.0, 1.5, float("nan"))],
)
def test_sampling_values_out_of_range_are_refused(arguments: dict[str, float], named: str) -> None:
    with pytest.raises(SpeckvError, match=named):
        Sampling(**arguments)  # type: ignore[arg-type]
