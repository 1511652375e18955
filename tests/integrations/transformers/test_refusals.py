"""What cannot be honoured is refused by name, before anything is decoded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    SynthIDTextWatermarkingConfig,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from integrations.transformers import generate, speculative_generate
from integrations.transformers.arguments import HONOURED, REFUSED
from tests.integrations.transformers.pairs import inputs, ours, own, tiny
from tests.loop.tiny import VOCABULARY, tiny_model

PROMPT = [3, 1, 4, 1, 5]

FIELDS: dict[str, dict[str, Any]] = {
    "num_beams": {"num_beams": 3},
    "num_return_sequences": {"num_return_sequences": 2, "do_sample": True},
    "num_beam_groups": {"num_beam_groups": 2},
    "diversity_penalty": {"diversity_penalty": 0.5},
    "constraints": {"constraints": ["a constraint"]},
    "force_words_ids": {"force_words_ids": [[5]]},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": {"dola_layers": "high"},
    "low_memory": {"low_memory": True},
    "guidance_scale": {"guidance_scale": 1.5},
    "use_cache": {"use_cache": False},
    "cache_implementation": {"cache_implementation": "static"},
    "cache_config": {"cache_config": {"backend": "quanto"}},
    "max_cache_len": {"max_cache_len": 100},
    "prefill_chunk_size": {"prefill_chunk_size": 2},
    "compile_config": {"compile_config": CompileConfig()},
    "output_attentions": {"output_attentions": True, "return_dict_in_generate": True},
    "output_hidden_states": {"output_hidden_states": True, "return_dict_in_generate": True},
    "is_assistant": {"is_assistant": True},
    "num_assistant_tokens": {"num_assistant_tokens": 5},
    "num_assistant_tokens_schedule": {"num_assistant_tokens_schedule": "heuristic"},
    "assistant_confidence_threshold": {"assistant_confidence_threshold": 0.2},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "max_matching_ngram_size": {"max_matching_ngram_size": 3},
    "assistant_early_exit": {"assistant_early_exit": 1},
    "assistant_lookbehind": {"assistant_lookbehind": 3},
    "target_lookbehind": {"target_lookbehind": 3},
    "assistant_ensemble_weight": {"assistant_ensemble_weight": 0.5},
    "use_mtp": {"use_mtp": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "assistant_model": {"assistant_model": tiny_model(seed=4, layers=1)},
    "synced_gpus": {"synced_gpus": True},
    "negative_prompt_ids": {"negative_prompt_ids": torch.tensor([[1, 2]])},
    "negative_prompt_attention_mask": {"negative_prompt_attention_mask": torch.tensor([[1, 1]])},
    "past_key_values": {"past_key_values": DynamicCache()},
    "position_ids": {"position_ids": torch.tensor([[1, 2, 3, 4, 5]])},
    "stop_strings": {"stop_strings": ["w1"]},
    "logits_processor": {"watermarking_config": SynthIDTextWatermarkingConfig(keys=[1, 2], ngram_len=2)},
    "polcy": {"polcy": "fixed:3"},
    "labels": {"labels": torch.tensor([[1]])},
    "policy": {"policy": 4},
    "no policy is called 'fastest'": {"policy": "fastest"},
}


@pytest.mark.parametrize("name", [*FIELDS, *OTHERS])
def test_refused_by_name(model: PreTrainedModel, draft: PreTrainedModel, name: str) -> None:
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(ValueError, match=name):
            ours(model, PROMPT, draft, max_new_tokens=5, **{**FIELDS, **OTHERS}[name])
    finally:
        handle.remove()
    assert not calls


@pytest.mark.parametrize("name", FIELDS)
def test_what_is_refused_is_not_refused_by_accident(name: str) -> None:
    """The value is a valid one, and ours is the refusal: the field is in the table, with another neutral value."""
    neutral, remedy = REFUSED[name]
    assert FIELDS[name][name] != neutral
    assert remedy


def test_every_field_of_a_generation_config_is_honoured_or_refused() -> None:
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields == HONOURED | set(REFUSED)
    assert not HONOURED & set(REFUSED)


def test_neutral_values_are_generates_own_defaults(model: PreTrainedModel) -> None:
    """What `generate` fills in by itself is not refused."""
    config, _ = model._prepare_generation_config(GenerationConfig())
    for name, (neutral, _) in REFUSED.items():
        assert getattr(config, name) in (None, neutral)


def test_a_field_of_a_later_release_is_refused(
    model: PreTrainedModel, draft: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = GenerationConfig.__init__

    def later(self: GenerationConfig, **kwargs: Any) -> None:
        self.lookahead_trees = kwargs.pop("lookahead_trees", None)
        plain(self, **kwargs)

    monkeypatch.setattr(GenerationConfig, "__init__", later)
    ours(model, PROMPT, draft, max_new_tokens=3)
    with pytest.raises(ValueError, match=r"`lookahead_trees`.*this release does not know it"):
        ours(model, PROMPT, draft, max_new_tokens=3, lookahead_trees=2)


def test_a_configurations_foreign_entries_are_as_idle_as_in_generate(draft: PreTrainedModel) -> None:
    model = tiny("llama")
    model.generation_config.chat_format = "chatml"
    assert torch.equal(ours(model, PROMPT, draft, max_new_tokens=5), own(model, PROMPT, max_new_tokens=5))


def test_a_field_of_the_configuration_passed_is_refused_too(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="num_beams"):
        ours(model, PROMPT, draft, generation_config=GenerationConfig(num_beams=2, max_new_tokens=5))


def test_a_batch_is_refused(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    ids = torch.tensor([PROMPT, PROMPT])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(ValueError, match=r"`input_ids`.*2 prompts"):
        model.generate(**given, custom_generate=speculative_generate, draft=draft, max_new_tokens=3)


@pytest.mark.parametrize("mask", [[0, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 0]])
def test_a_padded_prompt_is_refused(model: PreTrainedModel, draft: PreTrainedModel, mask: list[int]) -> None:
    with pytest.raises(ValueError, match=r"`attention_mask`.*padded"):
        model.generate(
            torch.tensor([PROMPT]), attention_mask=torch.tensor([mask]), custom_generate=speculative_generate,
            draft=draft, max_new_tokens=3,
        )  # fmt: skip


def test_padding_that_generate_infers_is_refused_too(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match=r"`attention_mask`.*mask of ones"):
        model.generate(torch.tensor([[0, 1, 2]]), custom_generate=speculative_generate, draft=draft, max_new_tokens=3)


def test_embeddings_are_refused(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="inputs_embeds"):
        model.generate(
            inputs_embeds=torch.randn(1, 3, 32), custom_generate=speculative_generate, draft=draft, max_new_tokens=3
        )


def test_guidance_as_a_custom_processor_is_refused(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    processor = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, model)
    with pytest.raises(ValueError, match="UnbatchedClassifierFreeGuidanceLogitsProcessor"):
        ours(model, PROMPT, draft, logits_processor=[processor], max_new_tokens=3)


@pytest.mark.parametrize(
    ("given", "said"), [(None, "missing"), ("a/draft", "a str"), (torch.nn.Linear(2, 2), "a Linear")]
)
def test_a_draft_that_is_none(model: PreTrainedModel, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"`draft` is {said}: pass a loaded causal language model"):
        model.generate(**inputs(PROMPT), custom_generate=speculative_generate, draft=given, max_new_tokens=3)


def test_a_draft_without_weights(model: PreTrainedModel) -> None:
    with torch.device("meta"):
        draft = tiny_model(seed=2, layers=1)
    with pytest.raises(ValueError, match="the draft has no weights"):
        ours(model, PROMPT, draft, max_new_tokens=3)


def test_a_recurrent_draft(model: PreTrainedModel) -> None:
    draft = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2)).eval()
    with pytest.raises(ValueError, match="recurrent"):
        ours(model, PROMPT, draft, max_new_tokens=3)


def test_encoder_decoders(model: PreTrainedModel, draft: PreTrainedModel) -> None:
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, decoder_start_token_id=2,
        forced_eos_token_id=None,
    )  # fmt: skip
    bart = BartForConditionalGeneration(config).eval()
    with pytest.raises(ValueError, match="the model is an encoder-decoder"):
        ours(bart, PROMPT, draft, max_new_tokens=3)
    with pytest.raises(ValueError, match="the draft is an encoder-decoder"):
        ours(model, PROMPT, bart, max_new_tokens=3)


def test_a_precision_that_no_policy_knows(draft: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="the model is loaded in none of"):
        ours(tiny("llama").double(), PROMPT, draft, max_new_tokens=3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cache_implementation": "paged"}, "cache_implementation"),
        ({"assistant_tokenizer": object()}, "assistant_tokenizer"),
        ({"custom_generate": "some/repository"}, "custom_generate"),
        ({"num_beams": 2}, "num_beams"),
    ],
)
def test_the_whole_function_refuses_too(
    model: PreTrainedModel, draft: PreTrainedModel, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=f"`{said}`"):
        generate(model, **inputs(PROMPT), draft=draft, max_new_tokens=3, **arguments)
