"""Every logits processor of `generate` sees, at every verified position, the ids that it would see without a draft."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, SequenceBiasLogitsProcessor, WatermarkingConfig

from tests.integrations.transformers.pairs import ours, own
from tests.loop.tiny import VOCABULARY

PROMPT = [3, 1, 4, 1, 5]
NEW = 30
FREE = {"max_new_tokens": NEW}


def one_of_two(_: int, ids: Tensor) -> list[int]:
    return [(int(ids[-1]) * 3 + k) % VOCABULARY for k in (1, 2)]


PROCESSED: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.6},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 0.3},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "bad_words_ids": {"bad_words_ids": [[i] for i in range(1, 40)]},
    "suppress_tokens": {"suppress_tokens": list(range(20, 50))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(10, 60))},
    "forced_eos_token_id": {"forced_eos_token_id": 60},
    "sequence_bias": {"sequence_bias": [[[i, j], 9.0] for i in range(1, 61) for j in (7, 8)]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (5, 2.5), "eos_token_id": 60},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": one_of_two},
    "watermarking_config": {"watermarking_config": WatermarkingConfig(bias=8.0, seeding_scheme="lefthash")},
    "renormalize_logits": {"renormalize_logits": True, "repetition_penalty": 1.6},
    "remove_invalid_values": {"remove_invalid_values": True, "no_repeat_ngram_size": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSED)
def test_processed_greedy_equals_generate(
    model: PreTrainedModel, draft: PreTrainedModel, bad_draft: PreTrainedModel, name: str
) -> None:
    arguments = {**FREE, **PROCESSED[name]}
    expected = own(model, PROMPT, **arguments)
    assert expected.tolist() != own(model, PROMPT, **FREE).tolist()  # the processor changes the text
    for one in (draft, bad_draft):
        assert torch.equal(ours(model, PROMPT, one, **arguments), expected)


@pytest.mark.parametrize("minimum", [1, 4, 9, NEW])
@pytest.mark.parametrize("kind", ["min_new_tokens", "min_length"])
def test_minimum_lengths(model: PreTrainedModel, draft: PreTrainedModel, kind: str, minimum: int) -> None:
    free = own(model, PROMPT, **FREE)[0, len(PROMPT) :].tolist()
    eos = [free[0], free[2]]
    length = minimum if kind == "min_new_tokens" else minimum + len(PROMPT)
    arguments = {**FREE, "eos_token_id": eos, kind: length}
    expected = own(model, PROMPT, **arguments)
    assert expected.shape[1] >= len(PROMPT) + minimum
    assert torch.equal(ours(model, PROMPT, draft, **arguments), expected)


class HashesThePrefix(LogitsProcessor):
    """Bans a third of the tokens by a hash of the whole prefix, in place, and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[list[int]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        assert input_ids.shape[0] == scores.shape[0] == 1
        ids = input_ids[0].tolist()
        self.shown.append(ids)
        scores[:, [token for token in range(VOCABULARY) if hash((*ids, token)) % 3 == 0]] = -float("inf")
        return scores


def test_a_processor_of_the_users_own(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    alone, drafted = HashesThePrefix(), HashesThePrefix()
    expected = own(model, PROMPT, **FREE, logits_processor=[alone])
    sequences = ours(model, PROMPT, draft, **FREE, logits_processor=[drafted])
    assert torch.equal(sequences, expected)
    assert expected.tolist() != own(model, PROMPT, **FREE).tolist()
    for prefix in alone.shown:  # every prefix of the text, for draft and target
        assert prefix in drafted.shown


def test_a_custom_processor_takes_the_place_of_the_built_one(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    arguments = {
        **FREE,
        "sequence_bias": [[[7], 50.0]],
        "logits_processor": [SequenceBiasLogitsProcessor([[[8], 50.0]])],
    }
    expected = own(model, PROMPT, **arguments)
    assert expected[0, -1] == 8
    assert torch.equal(ours(model, PROMPT, draft, **arguments), expected)


def test_warpers_do_nothing_to_greedy(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    expected = own(model, PROMPT, **FREE)
    assert torch.equal(ours(model, PROMPT, draft, **FREE, temperature=0.3, top_k=2, top_p=0.5), expected)
