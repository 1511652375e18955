"""Assisted generation with our candidates: transformers' own loop, a policy's lengths."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import CandidateGenerator

from integrations.transformers import PolicyCandidateGenerator, assisted_by
from integrations.transformers.arguments import DRAFTING
from runtime.loop.generate import speculate
from runtime.loop.scorer import cached_pair
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Drafted, Outcome, Policy
from tests.integrations.transformers.pairs import FAMILIES, inputs, noisy, own, tiny
from tests.integrations.transformers.test_refusals import FIELDS
from tests.integrations.transformers.test_sampling import exact
from tests.loop.fakes import Erratic, StopWhenUnsure
from tests.loop.test_sampling import FALSE_ALARM, p_value
from tests.loop.tiny import tiny_model

PROMPT = [3, 1, 4, 1, 5]


def assisted(model: PreTrainedModel, draft: PreTrainedModel, policy: str | Policy, **arguments: Any) -> Any:
    with assisted_by(model, policy):
        return model.generate(**inputs(PROMPT), assistant_model=draft, **arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate(family: str) -> None:
    model = tiny(family)
    for draft in (noisy(model), tiny(family, seed=2)):
        for policy in ("none", "fixed:4", "speckv", StopWhenUnsure(), Erratic()):
            sequences = assisted(model, draft, policy, max_new_tokens=30)
            assert torch.equal(sequences, own(model, PROMPT, max_new_tokens=30))


@pytest.mark.parametrize(
    "arguments",
    [
        {"repetition_penalty": 1.6, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 7, "eos_token_id": [17, 36, 35]},
        {"suppress_tokens": list(range(20, 50))},
        {"max_new_tokens": 1},
        {"max_new_tokens": 2},
    ],
    ids=str,
)
def test_processed_greedy_equals_generate(
    model: PreTrainedModel, draft: PreTrainedModel, arguments: dict[str, Any]
) -> None:
    arguments = {"max_new_tokens": 30, **arguments}
    assert torch.equal(assisted(model, draft, "fixed:5", **arguments), own(model, PROMPT, **arguments))


def test_eos_at_every_place(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    free = own(model, PROMPT, max_new_tokens=20)[0, len(PROMPT) :].tolist()
    for eos in dict.fromkeys(free[:10]):
        expected = own(model, PROMPT, max_new_tokens=20, eos_token_id=eos)
        assert torch.equal(assisted(model, draft, "fixed:6", max_new_tokens=20, eos_token_id=eos), expected)


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"repetition_penalty": 1.8, "temperature": 1.3}], ids=str)
def test_sampling_has_the_models_distribution(settings: dict[str, Any]) -> None:
    model, draft = tiny_model(3, 2, 6), tiny_model(4, 1, 6)
    torch.manual_seed(0)
    counts: Counter[tuple[int, ...]] = Counter()
    with assisted_by(model, "fixed:2"):
        for _ in range(300):
            sequences = model.generate(
                **inputs([1, 2]), assistant_model=draft, do_sample=True, max_new_tokens=3, **settings
            )
            counts[tuple(sequences[0, 2:4].tolist())] += 1
    assert p_value(counts, exact(model, settings)) > FALSE_ALARM


class Listens(StopWhenUnsure):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[Outcome] = []
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def gamma(self, drafted: Drafted) -> int:
        return super().gamma(drafted)

    def observe(self, outcome: Outcome) -> None:
        self.told.append(outcome)


def test_a_policy_is_told_what_the_loop_tells_it(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    here, there = Listens(), Listens()
    assisted(model, draft, here, max_new_tokens=30)
    list(speculate(*cached_pair(draft, model), PROMPT, there, max_new_tokens=30))
    assert here.begun == there.begun == 1
    assert [told[:2] for told in here.told] == [told[:2] for told in there.told]
    for ours, theirs in zip(here.told, there.told, strict=True):
        assert ours[2:5] == pytest.approx(theirs[2:5], rel=1e-3, abs=1e-5, nan_ok=True)
        assert ours.draft_ms > 0
        assert ours.verify_ms > 0


def test_processed_scores_are_not_shown_to_a_policy(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    policy = Listens()
    assisted(model, draft, policy, max_new_tokens=10, repetition_penalty=1.2)
    assert policy.told
    assert all(math.isnan(told.target_entropy) for told in policy.told)


def test_the_policy_says_how_many_candidates_there_are(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    config, _ = model._prepare_generation_config(None, max_length=50)
    generator = PolicyCandidateGenerator(draft, Fixed(3), 61, LogitsProcessorList(), config, torch.device("cpu"))
    assert isinstance(generator, CandidateGenerator)
    ids, scores = generator.get_candidates(torch.tensor([PROMPT]))
    assert ids[0, : len(PROMPT)].tolist() == PROMPT
    assert (ids.shape, scores) == ((1, len(PROMPT) + 3), None)
    near_the_end, _ = generator.get_candidates(torch.arange(48)[None])
    assert near_the_end.shape == (1, 49)


def test_the_model_is_left_as_it_was(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    before = set(vars(model))
    with assisted_by(model, "fixed:2"):
        with assisted_by(model, "fixed:3"), pytest.raises(ValueError, match="no policy"):
            assisted(model, draft, "nonsense", max_new_tokens=3)
        assert "_get_candidate_generator" in vars(model)
    assert set(vars(model)) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        *((FIELDS[name], f"`{name}`") for name in DRAFTING if name in FIELDS),
        ({"guidance_scale": 1.5}, "UnbatchedClassifierFreeGuidance"),
    ],
    ids=str,
)
def test_refusals(model: PreTrainedModel, draft: PreTrainedModel, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        assisted(model, draft, "fixed:2", max_new_tokens=3, **arguments)


def test_every_way_of_drafting_is_refused(model: PreTrainedModel) -> None:
    config, _ = model._prepare_generation_config(GenerationConfig())
    about = re.compile("assistant|lookup|lookbehind|ngram_size|mtp|speculation")
    fields = {name for name in vars(config) if not name.startswith("_") and about.search(name)}
    assert fields - {"is_assistant", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"} == set(DRAFTING) & set(
        vars(config)
    )


def test_prompt_lookup_is_refused(model: PreTrainedModel) -> None:
    with assisted_by(model, "fixed:2"), pytest.raises(ValueError, match="`draft` is missing"):
        model.generate(**inputs(PROMPT), prompt_lookup_num_tokens=2, max_new_tokens=3)
