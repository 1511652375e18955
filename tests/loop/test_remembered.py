"""The remembering scorer that slow models are tested with: the texts of a model with its cache, for fewer passes."""

from __future__ import annotations

from runtime.loop.generate import speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import CachedModel, Scorer
from runtime.policies.fixed import Fixed
from tests.loop.remembered import Remembered
from tests.loop.tiny import tiny_model

PROMPT = [1, 2, 3]
SEEDS = range(20)


def texts(draft: Scorer, target: Scorer) -> list[list[list[int]]]:
    found = []
    for seed in SEEDS:
        draft.rollback(0)
        target.rollback(0)
        sampling = Sampling(1.0, top_k=2)
        steps = speculate(draft, target, PROMPT, Fixed(2), max_new_tokens=6, sampling=sampling, seed=seed)
        found.append([step.tokens for step in steps])
    return found


def test_texts_are_the_models_own_for_fewer_passes() -> None:
    models = tiny_model(4, 1, 6), tiny_model(3, 2, 6)
    draft, target = (Remembered(CachedModel(model)) for model in models)
    found = texts(draft, target)
    assert found == texts(*map(CachedModel, models))
    assert len({str(text) for text in found}) > 5
    assert target.forwards < sum(1 + len(text) for text in found)
    before = draft.forwards, target.forwards
    assert texts(draft, target) == found
    assert (draft.forwards, target.forwards) == before
