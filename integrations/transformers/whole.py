"""`generate` with a draft: what a `custom_generate` folder of the Hub runs, and callable on its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import LongTensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StopStringCriteria
from transformers.generation import GenerateDecoderOnlyOutput

from integrations.transformers.arguments import refuse
from integrations.transformers.decoding import decode
from runtime.policies.policy import Policy


def generate(
    model: PreTrainedModel,
    inputs: torch.Tensor | None = None,
    *,
    draft: PreTrainedModel | None = None,
    policy: str | Policy | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **arguments: Any,
) -> LongTensor | GenerateDecoderOnlyOutput:
    """Run `model.generate` with speculative decoding, stop strings included.

    Args:
        model: the target.
        inputs: as in `model.generate`.
        draft: as in `speculative_generate`.
        policy: as in `speculative_generate`.
        tokenizer: the model's; needed for `stop_strings` only.
        arguments: all others of `model.generate`.

    Raises:
        ValueError: for every argument that cannot be honoured, naming it.
    """
    for name, remedy in (
        ("assistant_tokenizer", "draft and target must share a tokenizer; leave it out"),
        ("custom_generate", "this is a custom generate; leave it out"),
    ):
        if arguments.get(name) is not None:
            refuse(name, None, remedy)
    if arguments.get("cache_implementation") == "paged":  # `generate` would leave for continuous batching
        refuse("cache_implementation", "paged", "only dynamic caches can forget a rejected token; leave it out")
    strings = _stop_strings(model, arguments)
    if strings:
        if tokenizer is None:
            raise ValueError("`stop_strings` need the model's tokenizer: pass it as `tokenizer`.")
        criteria = [*(arguments.get("stopping_criteria") or ()), StopStringCriteria(tokenizer, strings)]
        # `generate` would ask a tokenizer of its own for those of a config; an argument takes precedence over them.
        arguments |= {"stopping_criteria": criteria, "stop_strings": None}
    # The class's method: the instance's own may be this function, for a model loaded with its custom generate.
    return type(model).generate(model, inputs, custom_generate=decode, draft=draft, policy=policy, **arguments)


def _stop_strings(model: PreTrainedModel, arguments: dict[str, Any]) -> str | list[str] | None:
    """Return the stop strings by `generate`'s order of precedence: the argument, the config passed, the model's."""
    configs: list[GenerationConfig | None] = [arguments.get("generation_config"), model.generation_config]
    given = [arguments.get("stop_strings"), *(config.stop_strings for config in configs if config is not None)]
    return next((strings for strings in given if strings is not None), None)
