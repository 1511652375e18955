"""What is honoured of `generate`'s arguments; anything else is refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import (
    ClassifierFreeGuidanceLogitsProcessor,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

_LENGTH_AND_END = (
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time", "stop_strings"),
    *("eos_token_id", "pad_token_id", "bos_token_id"),
)
_PROCESSED = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("sequence_bias", "exponential_decay_length_penalty", "remove_invalid_values", "renormalize_logits"),
    "watermarking_config",
)
_OUTPUT = ("output_scores", "output_logits", "return_dict_in_generate")
_IDLE = ("early_stopping", "length_penalty", "decoder_start_token_id", "disable_compile", "transformers_version")
"""Without effect on one sequence of a decoder: `generate` reads them for beams, encoders or compiled caches only."""
HONOURED = frozenset((*_LENGTH_AND_END, *_PROCESSED, *_OUTPUT, *_IDLE))

_POLICY = "the policy says how far to draft: pass `policy`, as in `policy='{}'`"
_PLAIN = "leave it out, or call `generate` without `custom_generate`"
DRAFTING: dict[str, tuple[object, str]] = {
    "num_assistant_tokens": (20, _POLICY.format("fixed:4")),
    "num_assistant_tokens_schedule": ("constant", _POLICY.format("heuristic")),
    "assistant_confidence_threshold": (0.4, _POLICY.format("confidence:0.4")),
    "prompt_lookup_num_tokens": (None, "a `draft` proposes the tokens; leave it out"),
    "max_matching_ngram_size": (None, "a `draft` proposes the tokens; leave it out"),
    "assistant_early_exit": (None, "pass `draft=early_exit(model, layers)`, from `runtime.pair.early_exit`"),
    "assistant_lookbehind": (10, "draft and target must share a tokenizer; leave it out"),
    "target_lookbehind": (10, "draft and target must share a tokenizer; leave it out"),
    "assistant_ensemble_weight": (None, "it changes the target's distribution; leave it out"),
    "use_mtp": (False, "a `draft` proposes the tokens; leave it out"),
    "speculation_type": (None, "a `draft` proposes the tokens; leave it out"),
}
"""Of `REFUSED`, what says how assisted generation drafts: a policy says it."""
REFUSED: dict[str, tuple[object, str]] = {
    "num_beams": (1, "only greedy search and sampling are; set it to 1, or call `generate` without `custom_generate`"),
    "num_beam_groups": (1, _PLAIN),
    "diversity_penalty": (0.0, _PLAIN),
    "constraints": (None, _PLAIN),
    "force_words_ids": (None, _PLAIN),
    "num_return_sequences": (1, "call `generate` once for every sequence"),
    "penalty_alpha": (0.0, _PLAIN),
    "dola_layers": (None, _PLAIN),
    "low_memory": (False, _PLAIN),
    "guidance_scale": (1, "guidance keeps a state that a rejected proposal would spoil; leave it out"),
    "token_healing": (False, "heal the prompt before, with `model.heal_tokens`"),
    "use_cache": (True, "speculative decoding needs the caches; leave it at True"),
    "cache_implementation": ("dynamic", "only dynamic caches can forget a rejected token; leave it out"),
    "cache_config": (None, "only plain dynamic caches can forget a rejected token; leave it out"),
    "max_cache_len": (None, "dynamic caches have no length; leave it out"),
    "prefill_chunk_size": (None, "the prompt is read in one pass; leave it out"),
    "compile_config": (None, "compile the models before; leave it out"),
    "continuous_batching_config": (None, _PLAIN),
    "output_attentions": (False, "call `model(sequences, output_attentions=True)` on the result"),
    "output_hidden_states": (False, "call `model(sequences, output_hidden_states=True)` on the result"),
    "is_assistant": (False, "it is the target that generates; leave it out"),
    **DRAFTING,
}
"""Field of `GenerationConfig` → the value, besides None, that asks for nothing, and what to do about any other."""

STATEFUL = (
    ClassifierFreeGuidanceLogitsProcessor,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
"""Processors that remember their calls, or need another batch."""


def refuse(name: str, value: object, remedy: str) -> NoReturn:
    """Raise the ValueError of an argument that cannot be honoured; a value of None is not shown."""
    shown = "" if value is None else f" (={value!r})"
    raise ValueError(f"`{name}`{shown} is not supported by speculative decoding with a `draft`: {remedy}.")


def check_config(config: GenerationConfig) -> None:
    """Refuse a generation config that asks for something the loop does not do.

    Raises:
        ValueError: naming the first such field.
    """
    for name in vars(GenerationConfig()):
        value = getattr(config, name, None)
        if value is None or name.startswith("_") or name in HONOURED:
            continue
        neutral, remedy = REFUSED.get(name, (None, "this release does not know it; leave it out"))
        if value != neutral:
            refuse(name, value, remedy)


def check_drafting(config: GenerationConfig) -> None:
    """Refuse a generation config that asks assisted generation for another way of drafting.

    Raises:
        ValueError: naming the first such field.
    """
    for name, (neutral, remedy) in DRAFTING.items():
        value = getattr(config, name, None)
        if value is not None and value != neutral:
            refuse(name, value, remedy)


def check_inputs(input_ids: Tensor, model_kwargs: Mapping[str, Any]) -> None:
    """Refuse anything but one prompt of tokens without padding (int64 `[1, n]`).

    Raises:
        ValueError: naming the input.
    """
    if len(input_ids) != 1:
        refuse("input_ids", None, f"a batch of {len(input_ids)} prompts was given; call `generate` once for each")
    for name, value in model_kwargs.items():
        if not _is_generates_own(name, value, input_ids.shape[1]):
            refuse(name, None, _INPUT_REMEDIES.get(name, "the loop takes token ids alone; leave it out"))


_INPUT_REMEDIES = {
    "attention_mask": "the prompt is padded; remove the padding, or pass a mask of ones if these are ordinary tokens",
    "position_ids": "positions count from 0; leave them out",
    "past_key_values": "the loop keeps its own caches; pass the whole text as `input_ids`",
    "inputs_embeds": "the draft needs token ids; pass `input_ids`",
}


def _is_generates_own(name: str, value: Any, length: int) -> bool:
    """Return whether a model input is what `generate` adds by itself for one prompt of `length` tokens."""
    if value is None or value == {} or name in ("use_cache", "logits_to_keep"):
        return True
    if name == "attention_mask":
        return value.shape == (1, length) and bool((value == 1).all())
    if name == "position_ids":
        return torch.equal(value.cpu(), torch.arange(length)[None])
    return name == "past_key_values" and not getattr(value, "_is_user_defined", False)


def check_processors(processors: LogitsProcessorList) -> None:
    """Refuse processors that could not be asked about proposals.

    Raises:
        ValueError: naming the processor.
    """
    for processor in processors:
        if isinstance(processor, STATEFUL):
            refuse(
                "logits_processor",
                None,
                f"{type(processor).__name__} keeps a state that a rejected proposal would spoil; leave it out",
            )


def check_models(model: PreTrainedModel, draft: PreTrainedModel | None) -> PreTrainedModel:
    """Return the draft, if draft and model can work together.

    Raises:
        ValueError: saying why they cannot.
    """
    if not isinstance(draft, PreTrainedModel):
        given = "missing" if draft is None else f"a {type(draft).__name__}"
        raise ValueError(f"`draft` is {given}: pass a loaded causal language model of the model's own tokenizer.")
    for name, one in (("model", model), ("draft", draft)):
        if one.config.is_encoder_decoder:
            raise ValueError(f"the {name} is an encoder-decoder, {type(one).__name__}: use decoder-only models.")
        if one.get_input_embeddings().weight.device.type == "meta":
            raise ValueError(f"the {name} has no weights, they are on the meta device: load it onto a real one.")
    return draft
