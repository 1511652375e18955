"""Random cases of sampling, and whether what was drawn has the target's distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import chi2

from runtime.loop.generate import speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import Scorer, cached_pair
from runtime.policies.policy import Policy
from tests.integrations.transformers.pairs import noisy
from tests.loop.fakes import TableScorer
from tests.loop.tiny import tiny_model
from tests.lossless.policies import POLICIES

VOCABULARY = 4
PROMPT = [1, 2]
TEXTS, LENGTH = 8, 350
"""Texts of a case, each with a seed of its own, and the tokens of each."""
LEAST_EXPECTED = 5.0
"""Cells of a table that are expected less often are taken together."""
FALSE_ALARMS = 1e-3
"""Probability that a correct loop fails any test of the family at all; the seeds are fixed, so a pass stays one."""


class Case(NamedTuple):
    """A draft, a policy and a way to draw."""

    draft: str
    policy: str
    sampling: Sampling = Sampling(1.0)


TRUNCATED = (Sampling(temperature=0.7, top_k=3), Sampling(temperature=1.4, top_p=0.8))
CASES = [
    *(Case(draft, policy) for policy in POLICIES for draft in ("good", "bad")),
    *(Case("bad", policy, sampling) for policy in ("fixed:3", "signal", "adaptive") for sampling in TRUNCATED),
]
PAIRS = ("llama", "llama with temperature")
"""Cases on tiny transformers, whose caches take part."""
THRESHOLD = FALSE_ALARMS / (len(CASES) + len(PAIRS))
"""Bonferroni: each test of the family may fail with this probability."""


def draft_of(kind: str) -> TableScorer:
    draft = TableScorer(VOCABULARY, seed=1 if kind == "good" else 9)
    draft.table = draft.table + 0.3 * TableScorer(VOCABULARY, seed=5).table
    return draft


def texts(
    draft: Scorer, target: Scorer, policy: Policy, sampling: Sampling, count: int = TEXTS, length: int = LENGTH
) -> list[list[int]]:
    """Draw `count` texts of `length` tokens, each with a seed of its own."""
    drawn = []
    for seed in range(count):
        draft.rollback(0)
        target.rollback(0)
        # More than is looked at, so that no step is cut short by the end of the text.
        steps = speculate(draft, target, PROMPT, policy, max_new_tokens=length + 8, sampling=sampling, seed=seed)
        tokens: list[int] = []
        while len(tokens) < length:
            tokens += next(steps).tokens
        drawn.append(tokens[:length])
    return drawn


def p_value_of(case: Case) -> float:
    target = TableScorer(VOCABULARY, seed=1)
    drawn = texts(draft_of(case.draft), target, POLICIES[case.policy](), case.sampling)
    return transitions_p_value(drawn, target, case.sampling)


def transitions_p_value(drawn: Sequence[Sequence[int]], target: TableScorer, sampling: Sampling) -> float:
    """Test texts of a model whose next token depends on the last two.

    Pearson's chi-squared over all contexts: how often each token came after each pair, against the exact probability;
    with known probabilities its degrees of freedom are those of the single contexts together (Billingsley 1961).
    """
    after: Counter[tuple[int, int, int]] = Counter()
    for text in drawn:
        known = [*PROMPT, *text]
        after.update(zip(known, known[1:], known[2:], strict=False))
    statistic, freedom = 0.0, 0
    for a in range(VOCABULARY):
        p = sampling.probabilities(target.table[a]).double().numpy()  # [b, next]
        for b in range(VOCABULARY):
            observed = np.array([after[a, b, token] for token in range(VOCABULARY)], float)
            if observed[p[b] == 0].any():
                return 0.0
            cells = pooled(observed, observed.sum() * p[b])
            statistic += float(((cells[0] - cells[1]) ** 2 / cells[1]).sum())
            freedom += len(cells[0]) - 1
    return float(chi2.sf(statistic, freedom))


def pooled(observed: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take cells together, the rarest first, until each is expected often enough; one cell may be all that is left."""
    order = np.argsort(expected)
    observed, expected = observed[order], expected[order]
    while len(expected) > 1 and expected[0] < LEAST_EXPECTED:
        observed = np.array([observed[0] + observed[1], *observed[2:]])
        expected = np.array([expected[0] + expected[1], *expected[2:]])
        order = np.argsort(expected)
        observed, expected = observed[order], expected[order]
    return (observed, expected) if expected.sum() else (np.ones(1), np.ones(1))


def places_p_value(drawn: Sequence[Sequence[int]], probabilities: Callable[[Sequence[int]], np.ndarray]) -> float:
    """Test texts of any model: `probabilities` gives `[n, V]`, the exact ones at every place of a text.

    How often each token came less the sum of its probabilities is a martingale: its square over the summed
    covariances is asymptotically chi-squared (martingale central limit theorem).
    """
    surplus, covariance = 0.0, 0.0
    for text in drawn:
        p = probabilities(text)
        surplus = surplus + np.eye(p.shape[1])[list(text)].sum(0) - p.sum(0)
        covariance = covariance + np.diag(p.sum(0)) - p.T @ p
    inverse, rank = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True), np.linalg.matrix_rank(covariance, tol=1e-6)
    return float(chi2.sf(float(np.asarray(surplus) @ inverse @ np.asarray(surplus)), rank))


def p_value_of_pair(name: str) -> float:
    """Two tiny models with caches, rolled back at every step."""
    sampling = Sampling(temperature=1.3, top_k=4) if "temperature" in name else Sampling(1.0)
    target = tiny_model(3, 2, 6)
    draft = noisy(target, 0.1)

    @torch.inference_mode()
    def probabilities(text: Sequence[int]) -> np.ndarray:
        logits = target(torch.tensor([[*PROMPT, *text]])).logits[0, len(PROMPT) - 1 : -1]
        return sampling.probabilities(logits).double().numpy()

    drawn = texts(*cached_pair(draft, target), POLICIES["signal"](), sampling, count=12, length=60)
    return places_p_value(drawn, probabilities)
