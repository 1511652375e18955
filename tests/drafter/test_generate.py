from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from export.drafter.generate import decode
from tests.drafter.conftest import VOCABULARY

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], [30], [40, 41]]


def _reference(target: PreTrainedModel, prompt: list[int], new_tokens: int, end: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new_tokens):
        tokens.append(int(target(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == end:
            break
    return tokens[len(prompt) :]


def test_greedy_batch_equals_one_row_at_a_time(target: PreTrainedModel) -> None:
    expected = [_reference(target, prompt, 70, end=2) for prompt in PROMPTS]
    assert decode(target, PROMPTS, 70) == expected
    assert target.config._attn_implementation == "sdpa"


def test_rows_that_end_early_leave_the_others_alone(target: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [_reference(target, prompt, 70, end=-1) for prompt in PROMPTS]
    end = free[1][0]  # ends at least the second row at once
    monkeypatch.setattr(target.generation_config, "eos_token_id", end)
    expected = [_reference(target, prompt, 70, end) for prompt in PROMPTS]
    assert min(map(len, expected)) == 1
    assert decode(target, PROMPTS, 70) == expected


def test_sampling_draws_the_targets_distribution(target: PreTrainedModel) -> None:
    rows = 4000
    first = torch.tensor([row[0] for row in decode(target, [PROMPTS[0]] * rows, 1, temperature=0.7, seed=3)])
    wanted = (target(torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.7).softmax(-1)
    found = torch.bincount(first, minlength=VOCABULARY) / rows
    assert (found - wanted).abs().max() < 4 * (0.25 / rows) ** 0.5


def test_same_seed_same_sample(target: PreTrainedModel) -> None:
    assert decode(target, PROMPTS, 20, 1.0, seed=1) == decode(target, PROMPTS, 20, 1.0, seed=1)
    assert decode(target, PROMPTS, 20, 1.0, seed=1) != decode(target, PROMPTS, 20, 1.0, seed=2)
