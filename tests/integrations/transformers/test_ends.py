"""The text ends exactly where `generate` alone would end it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    MaxLengthCriteria,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StopStringCriteria,
)

from integrations.transformers import generate
from tests.integrations.transformers.pairs import inputs, ours, own, tokens

PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def free(model: PreTrainedModel) -> list[int]:
    return tokens(own(model, PROMPT, max_new_tokens=40), PROMPT)


@pytest.mark.parametrize("gamma", [0, 1, 4, 9])
def test_eos_at_every_place_of_a_step(
    model: PreTrainedModel, draft: PreTrainedModel, free: list[int], gamma: int
) -> None:
    ends = set()
    for eos in dict.fromkeys(free[:12]):
        expected = own(model, PROMPT, max_new_tokens=40, eos_token_id=eos)
        ends.add(expected.shape[1])
        assert torch.equal(
            ours(model, PROMPT, draft, max_new_tokens=40, eos_token_id=eos, policy=f"fixed:{gamma}"), expected
        )
    assert len(ends) > 5


def test_several_eos_tokens(model: PreTrainedModel, draft: PreTrainedModel, free: list[int]) -> None:
    for eos in ([free[7], free[3]], [free[0], free[1]], [60, 59, free[9]]):
        expected = own(model, PROMPT, max_new_tokens=40, eos_token_id=eos)
        assert torch.equal(ours(model, PROMPT, draft, max_new_tokens=40, eos_token_id=eos), expected)


@pytest.mark.parametrize(
    "arguments",
    [{"max_new_tokens": n} for n in (1, 2, 5, 6)]
    + [{"max_length": len(PROMPT) + n} for n in (1, 2, 7)]
    + [{}, {"max_new_tokens": 3, "max_length": 50}, {"max_time": 0.0, "max_new_tokens": 9}],
    ids=str,
)
def test_lengths(model: PreTrainedModel, draft: PreTrainedModel, arguments: dict[str, Any]) -> None:
    for policy in ("none", "fixed:1", "fixed:8"):
        assert torch.equal(ours(model, PROMPT, draft, policy=policy, **arguments), own(model, PROMPT, **arguments))


@pytest.mark.parametrize("length", [1, len(PROMPT)])
def test_no_room_at_all_is_generates_own_error(model: PreTrainedModel, draft: PreTrainedModel, length: int) -> None:
    for way in (own, lambda *given, **named: ours(*given, draft, **named)):
        with pytest.raises(ValueError, match="max_length"):
            way(model, PROMPT, max_length=length)


def test_a_draft_without_room_for_the_text_is_refused(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="do not fit into the draft's context of 512"):
        ours(model, PROMPT, draft, max_new_tokens=600)


@pytest.mark.parametrize("length", [3, 5, 6, 9])
def test_a_length_criterion_of_the_users_own_goes_first(
    model: PreTrainedModel, draft: PreTrainedModel, length: int
) -> None:
    arguments = {"max_new_tokens": 20, "stopping_criteria": [MaxLengthCriteria(length)]}
    assert torch.equal(ours(model, PROMPT, draft, **arguments), own(model, PROMPT, **arguments))


class Remembers(StoppingCriteria):
    """Stops when the ids add up, and remembers every text and how many scores it was asked with."""

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus
        self.asked: list[tuple[list[int], int | None]] = []

    def __call__(self, input_ids: Tensor, scores: tuple[Tensor, ...] | None, **_: Any) -> Tensor:
        self.asked.append((input_ids[0].tolist(), None if scores is None else len(scores)))
        return input_ids.sum(-1) % self.modulus == 0


@pytest.mark.parametrize("output_scores", [False, True])
@pytest.mark.parametrize("modulus", [2, 5, 7, 11, 10_000])
def test_criteria_are_asked_once_for_every_token(
    model: PreTrainedModel, draft: PreTrainedModel, modulus: int, output_scores: bool
) -> None:
    alone, drafted = Remembers(modulus), Remembers(modulus)
    arguments = {"max_new_tokens": 30, "output_scores": output_scores, "return_dict_in_generate": output_scores}
    own(model, PROMPT, stopping_criteria=[alone], **arguments)
    ours(model, PROMPT, draft, stopping_criteria=[drafted], **arguments)
    assert drafted.asked == alone.asked


@pytest.mark.parametrize("place", [0, 3, 6, 11])
def test_stop_strings(
    model: PreTrainedModel, draft: PreTrainedModel, free: list[int], tokenizer: PreTrainedTokenizerBase, place: int
) -> None:
    strings = [f"w{free[place]}"]
    expected = own(model, PROMPT, max_new_tokens=40, stop_strings=strings, tokenizer=tokenizer)
    assert expected.shape[1] <= len(PROMPT) + place + 1
    criteria = [StopStringCriteria(tokenizer, strings)]
    assert torch.equal(ours(model, PROMPT, draft, max_new_tokens=40, stopping_criteria=criteria), expected)
    shared: dict[str, Any] = {**inputs(PROMPT), "draft": draft, "policy": "fixed:4", "tokenizer": tokenizer}
    assert torch.equal(generate(model, **shared, max_new_tokens=40, stop_strings=strings), expected)
    config = GenerationConfig(max_new_tokens=40, stop_strings=strings)
    assert torch.equal(generate(model, **shared, generation_config=config), expected)


def test_stop_strings_without_a_tokenizer_are_refused(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="`stop_strings` need the model's tokenizer"):
        generate(model, **inputs(PROMPT), draft=draft, stop_strings="w3")
    with pytest.raises(ValueError, match=r"`stop_strings`.*StopStringCriteria"):
        ours(model, PROMPT, draft, stop_strings="w3")
