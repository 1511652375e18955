"""Sampling: the text has the distribution of the model's own `generate`, processors included; one seed, one text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.integrations.transformers.pairs import inputs, ours, own
from tests.loop.test_sampling import FALSE_ALARM, p_value
from tests.loop.tiny import tiny_model

VOCABULARY = 6
PROMPT = [1, 2]
RUNS = 300
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"top_k": 0},
    "temperature and top_k": {"temperature": 1.4, "top_k": 4},
    "top_p": {"temperature": 1.5, "top_p": 0.8},
    "min_p": {"temperature": 1.3, "min_p": 0.1},
    "repetition_penalty": {"repetition_penalty": 1.8, "temperature": 1.3},
    "bad_words_ids": {"bad_words_ids": [[3], [1, 2]], "temperature": 1.3},
    "typical_p and eta": {"typical_p": 0.9, "eta_cutoff": 0.05, "temperature": 1.3},
}


@pytest.fixture(scope="module")
def small() -> PreTrainedModel:
    return tiny_model(3, 2, VOCABULARY)


@pytest.fixture(scope="module")
def small_draft() -> PreTrainedModel:
    return tiny_model(4, 1, VOCABULARY)


def exact(model: PreTrainedModel, settings: dict[str, Any]) -> dict[tuple[int, ...], float]:
    """Probability of every pair of first tokens, from the processed scores of `generate` itself."""

    def next_token(prompt: list[int]) -> list[float]:
        output = model.generate(
            **inputs(prompt), do_sample=True, max_new_tokens=1, return_dict_in_generate=True, output_scores=True,
            **settings,
        )  # fmt: skip
        return torch.softmax(output.scores[0][0].double(), -1).tolist()

    result = {}
    for a, p in enumerate(next_token(PROMPT)):
        if p:
            result |= {(a, b): p * q for b, q in enumerate(next_token([*PROMPT, a]))}
    return result


@pytest.mark.parametrize("name", SETTINGS)
def test_the_first_two_tokens_have_the_models_distribution(
    small: PreTrainedModel, small_draft: PreTrainedModel, name: str
) -> None:
    settings = SETTINGS[name]
    expected = exact(small, settings)
    torch.manual_seed(0)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(RUNS):
        sequences = ours(small, PROMPT, small_draft, policy="fixed:2", do_sample=True, max_new_tokens=3, **settings)
        counts[tuple(sequences[0, 2:4].tolist())] += 1
    assert all(expected.get(outcome, 0) > 0 for outcome in counts)
    assert p_value(counts, expected) > FALSE_ALARM


def test_the_draft_alone_has_another_distribution(small: PreTrainedModel, small_draft: PreTrainedModel) -> None:
    """The test above can fail."""
    torch.manual_seed(0)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(200):
        sequences = own(small_draft, PROMPT, do_sample=True, max_new_tokens=2, top_k=0)
        counts[tuple(sequences[0, 2:4].tolist())] += 1
    assert p_value(counts, exact(small, {"top_k": 0})) < FALSE_ALARM


def test_torchs_seed_is_the_seed(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    def text(seed: int, policy: str) -> list[int]:
        torch.manual_seed(seed)
        return ours(model, PROMPT, draft, policy=policy, do_sample=True, max_new_tokens=25)[0].tolist()

    for policy in ("fixed:3", "speckv", "adaedl"):
        assert text(5, policy) == text(5, policy)
        assert text(5, policy) != text(6, policy)


def test_two_calls_draw_two_texts(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    torch.manual_seed(0)
    texts = [ours(model, PROMPT, draft, do_sample=True, max_new_tokens=25)[0].tolist() for _ in range(2)]
    assert texts[0] != texts[1]


def test_greedy_draws_nothing(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    before = torch.get_rng_state()
    ours(model, PROMPT, draft, max_new_tokens=10)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_place_without_any_possible_token_is_an_error(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    """`generate` alone fails there, too."""
    arguments = {"do_sample": True, "max_new_tokens": 9, "suppress_tokens": list(range(61))}
    with pytest.raises(RuntimeError, match="inf"):
        own(model, PROMPT, **arguments)
    with pytest.raises(ValueError, match="no token possible after 2 tokens"):
        ours(model, PROMPT, draft, **arguments)


def test_a_dead_end_of_the_drafts_is_not_the_targets(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    """Where only proposals lead to a place without possible tokens, the text goes on."""
    greedy = own(model, PROMPT, max_new_tokens=12)[0].tolist()

    def after_the_greedy_text_alone(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        known = ids[0].tolist()
        if known != greedy[: len(known)]:
            return torch.full_like(scores, -float("inf"))
        only = torch.full_like(scores, -float("inf"))
        only[0, greedy[len(known)]] = 0.0
        # The draft is asked about one place, without proposals after it; it may also stray.
        only[0, (greedy[len(known)] + 1) % 61] = -60.0
        return only

    sequences = ours(
        model, PROMPT, draft, do_sample=True, max_new_tokens=10, logits_processor=[after_the_greedy_text_alone], top_k=0
    )
    assert sequences[0].tolist() == greedy[: len(PROMPT) + 10]
