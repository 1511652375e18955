"""The distribution of what is drawn, for every policy, and the wrong loops that it catches.

A family of tests with one false-alarm rate for all of them together (`FALSE_ALARMS`, by Bonferroni's bound).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from runtime.loop.sampling import Sampling
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Drafted, Outcome
from tests.counts import write_counts
from tests.loop.fakes import TableScorer
from tests.lossless.mutants import OF_SAMPLING, Forgetful, mutated
from tests.lossless.sampling import (
    CASES,
    PAIRS,
    PROMPT,
    THRESHOLD,
    VOCABULARY,
    Case,
    draft_of,
    p_value_of,
    p_value_of_pair,
    texts,
    transitions_p_value,
)

tried: Counter[str] = Counter()
failed: Counter[str] = Counter()
mutants: Counter[str] = Counter()
missed: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _counted() -> Iterator[None]:
    yield
    if tried:
        write_counts("lossless-sampling", "make test", tried, failed.total(), "distributions", failed.total())
    if mutants:
        write_counts("wrong-loops-sampling", "make test", mutants, missed.total(), "wrong loops caught", missed.total())


def check(part: str, p_value: float) -> None:
    tried[part] += 1
    failed[part] += p_value <= THRESHOLD
    assert p_value > THRESHOLD


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case[:2])))
def test_every_policy_draws_from_the_target(case: Case) -> None:
    check(case.policy, p_value_of(case))


@pytest.mark.parametrize("name", PAIRS)
def test_models_with_caches(name: str) -> None:
    check("transformers", p_value_of_pair(name))


class FailingDraft(TableScorer):
    """Fails on a token of its own: what it has drawn so far says that it will."""

    def __init__(self, how: str) -> None:
        super().__init__(VOCABULARY, seed=9)
        self.how = how

    def score(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        logits = super().score(tokens, keep)
        if int(tokens[-1]) != 1:  # which it likes more than the target does
            return logits
        if self.how == "raises":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.full_like(logits, torch.nan)


class FailingPolicy(Fixed):
    """Fails when it sees that the draft is not sure."""

    def gamma(self, drafted: Drafted) -> int:
        if drafted.count and drafted.tokens[-1].top1 < 0.5:
            raise RuntimeError
        return min(drafted.count + 1, self.length)

    def observe(self, outcome: Outcome) -> None:
        if outcome.accepted == 2:
            raise RuntimeError


FAULTS = ("raises", "NaN", "policy")


def p_value_under(fault: str) -> float:
    """Short texts, since a fault happens once in each."""
    draft = draft_of("bad") if fault == "policy" else FailingDraft(fault)
    policy = FailingPolicy(4) if fault == "policy" else Fixed(4)
    target = TableScorer(VOCABULARY, seed=1)
    return transitions_p_value(texts(draft, target, policy, Sampling(1.0), 3000, 2), target, Sampling(1.0))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_draft_or_a_policy_that_fails_leaves_the_distribution_alone(fault: str) -> None:
    check(f"under faults: {fault}", p_value_under(fault))


def test_what_a_failing_draft_drew_must_be_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    mutants["forgetful"] += 1
    missed["forgetful"] += 1
    monkeypatch.setattr("runtime.loop.propose._Drafting", Forgetful)
    assert p_value_under("raises") < THRESHOLD
    missed["forgetful"] -= 1


@pytest.mark.parametrize("mutant", OF_SAMPLING)
def test_a_wrong_loop_is_caught(mutant: str) -> None:
    mutants[mutant] += 1
    missed[mutant] += 1
    with mutated(mutant):
        assert any(p_value_of(case) <= THRESHOLD for case in CASES)
    missed[mutant] -= 1


def test_the_p_values_of_a_right_sampler_are_what_they_say() -> None:
    """Texts drawn from the target itself: the share below 5 % is 5 %."""
    target, generator = TableScorer(VOCABULARY, seed=1), np.random.default_rng(0)
    p = torch.softmax(target.table, -1).double().numpy()
    cumulative, p_values = p.cumsum(-1), []
    for _ in range(200):
        text = list(PROMPT)
        for u in generator.random(1500):
            text.append(min(int((cumulative[text[-2], text[-1]] < u).sum()), VOCABULARY - 1))
        p_values.append(transitions_p_value([text[2:]], target, Sampling(1.0)))
    below = sum(value < 0.05 for value in p_values)
    assert binomtest(below, len(p_values), 0.05).pvalue > 0.001
