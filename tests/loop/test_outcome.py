"""What a policy is told after each step of a sampled run, against the models' own tables."""

from __future__ import annotations

import math

import pytest
import torch

from runtime.loop.generate import speculate
from runtime.loop.propose import token_signals
from runtime.loop.sampling import Sampling
from runtime.policies.policy import Outcome
from tests.loop.fakes import Erratic, TableScorer

PROMPT = [1, 2]


class Listener(Erratic):
    """Asks for random lengths, none among them, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Outcome] = []

    def observe(self, outcome: Outcome) -> None:
        self.told.append(outcome)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(temperature=0.5, top_k=2)])
def test_the_distributions_are_those_before_temperature_and_truncation(sampling: Sampling) -> None:
    draft, target, policy = TableScorer(5, seed=9), TableScorer(5, seed=1), Listener()
    draft.table = (draft.table + target.table) / 2
    text = list(PROMPT)
    kinds = set()
    steps = speculate(draft, target, PROMPT, policy, max_new_tokens=150, sampling=sampling)
    for count, step in enumerate(steps, start=1):
        text += step.tokens
        outcome = policy.told[-1]
        assert len(policy.told) == count  # told before the step is given out
        assert outcome[:2] == (step.gamma, step.accepted)
        p, q = (model.table[text[-3], text[-2]] for model in (target, draft))
        assert outcome[2:4] == pytest.approx(token_signals(p[None])[0, :2].tolist(), rel=1e-5)
        distance = float((p.softmax(-1) - q.softmax(-1)).abs().sum() / 2)
        known = step.accepted < step.gamma
        assert outcome.distance == pytest.approx(distance if known else math.nan, rel=1e-4, nan_ok=True)
        assert outcome.draft_ms > 0
        assert outcome.verify_ms > 0
        kinds.add((step.gamma > 0, known))
    assert kinds == {(False, False), (True, False), (True, True)}
    assert torch.isfinite(torch.tensor([told[2:4] for told in policy.told])).all()
