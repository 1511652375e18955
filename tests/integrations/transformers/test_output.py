"""What comes back: sequences, scores, logits and cache as `generate` returns them; streams; configurations."""

from __future__ import annotations

import copy
import functools
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextIteratorStreamer
from transformers.generation import BaseStreamer, GenerateDecoderOnlyOutput

from integrations.transformers import generate, speculative_generate
from tests.integrations.transformers.pairs import inputs, ours, own, tiny

PROMPT = [3, 1, 4, 1, 5]


@pytest.mark.parametrize("processed", [{}, {"repetition_penalty": 1.5, "eos_token_id": [20, 11]}], ids=str)
def test_scores_and_logits_are_generates_own(
    model: PreTrainedModel, draft: PreTrainedModel, processed: dict[str, Any]
) -> None:
    arguments = {
        **processed,
        "max_new_tokens": 25,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    expected, output = own(model, PROMPT, **arguments), ours(model, PROMPT, draft, **arguments)
    assert isinstance(output, GenerateDecoderOnlyOutput)
    assert torch.equal(output.sequences, expected.sequences)
    for name in ("scores", "logits"):
        assert len(output[name]) == len(expected[name]) == output.sequences.shape[1] - len(PROMPT)
        torch.testing.assert_close(torch.stack(output[name]), torch.stack(expected[name]), atol=1e-4, rtol=1e-4)
    for tensor in (output.sequences, *output.scores, *output.logits):
        tensor.add_(1)  # they are the user's to change
    if processed:
        assert not torch.equal(output.scores[0], output.logits[0])


def test_only_what_is_asked_for(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    output = ours(model, PROMPT, draft, max_new_tokens=6, return_dict_in_generate=True)
    assert output.scores is output.logits is None
    assert isinstance(ours(model, PROMPT, draft, max_new_tokens=6, output_scores=True), Tensor)


def test_the_cache_that_comes_back_goes_on(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    output = ours(model, PROMPT, draft, max_new_tokens=9, return_dict_in_generate=True)
    assert output.past_key_values.get_seq_length() == output.sequences.shape[1] - 1
    on = model.generate(
        output.sequences,
        attention_mask=torch.ones_like(output.sequences),
        past_key_values=output.past_key_values,
        max_new_tokens=9,
    )
    assert torch.equal(on, own(model, PROMPT, max_new_tokens=18))


class Records(BaseStreamer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def put(self, value: Tensor) -> None:
        self.calls.append((value.shape, value.tolist(), value.device.type))

    def end(self) -> None:
        self.calls.append("end")


@pytest.mark.parametrize("eos", [None, 20])
def test_a_streamer_gets_what_generate_gives_it(
    model: PreTrainedModel, draft: PreTrainedModel, eos: int | None
) -> None:
    alone = Records()
    own(model, PROMPT, max_new_tokens=20, eos_token_id=eos, streamer=alone)
    callables = (
        speculative_generate,
        functools.partial(speculative_generate, draft=draft),
        lambda *given, **named: speculative_generate(*given, draft=draft, **named),
    )
    for i, decode in enumerate(callables):
        drafted = Records()
        given = {"draft": draft, "policy": "fixed:4"} if i == 0 else {}
        model.generate(
            **inputs(PROMPT), custom_generate=decode, max_new_tokens=20, eos_token_id=eos, streamer=drafted, **given
        )
        assert drafted.calls == alone.calls
    assert alone.calls[-1] == "end"


def test_a_streamer_through_the_whole_function(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    alone, drafted = Records(), Records()
    own(model, PROMPT, max_new_tokens=20, streamer=alone)
    generate(model, **inputs(PROMPT), max_new_tokens=20, draft=draft, streamer=drafted)
    assert drafted.calls == alone.calls


def test_text_streams_to_another_thread(
    model: PreTrainedModel, draft: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    thread = Thread(target=ours, args=(model, PROMPT, draft), kwargs={"max_new_tokens": 12, "streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(own(model, PROMPT, max_new_tokens=12)[0, len(PROMPT) :])


def test_a_configuration_passed(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    config = GenerationConfig(max_new_tokens=17, repetition_penalty=1.4, no_repeat_ngram_size=2, eos_token_id=60)
    before = config.to_dict()
    expected = own(model, PROMPT, generation_config=config)
    assert torch.equal(ours(model, PROMPT, draft, generation_config=config), expected)
    assert config.to_dict() == before


def test_the_models_own_configuration(draft: PreTrainedModel) -> None:
    model = tiny("llama")
    model.generation_config = GenerationConfig(max_new_tokens=17, repetition_penalty=1.4, suppress_tokens=[17, 36])
    before = copy.deepcopy(model.generation_config.to_dict())
    assert torch.equal(ours(model, PROMPT, draft), own(model, PROMPT))
    # An argument goes before it.
    assert torch.equal(ours(model, PROMPT, draft, max_new_tokens=5), own(model, PROMPT, max_new_tokens=5))
    assert model.generation_config.to_dict() == before


def test_without_ids_generate_begins_with_bos(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    expected = model.generate(bos_token_id=7, max_new_tokens=10)
    sequences = model.generate(
        bos_token_id=7, max_new_tokens=10, custom_generate=speculative_generate, draft=draft, policy="fixed:3"
    )
    assert torch.equal(sequences, expected)


def test_the_models_are_left_as_they_were(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    before = [set(vars(one)) for one in (model, draft)]
    ours(model, PROMPT, draft, max_new_tokens=5)
    assert [set(vars(one)) for one in (model, draft)] == before
