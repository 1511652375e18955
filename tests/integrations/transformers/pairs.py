"""Tiny random pairs of several families, and the two ways to generate that every test compares."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from integrations.transformers import speculative_generate
from tests.loop.tiny import VOCABULARY, tiny_model

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "initializer_range": 0.4,  # peaked distributions, as a trained model has
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
LLAMA_LIKE: dict[str, Any] = {
    **SHAPE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
}
FAMILIES = ("llama", "gpt2", "qwen2", "sliding")


def tiny(family: str, seed: int = 1) -> PreTrainedModel:
    if family == "llama":
        return tiny_model(seed)
    configs: dict[str, PreTrainedConfig] = {
        "gpt2": GPT2Config(**SHAPE, n_embd=32, n_head=4, n_layer=2, n_positions=256),
        "qwen2": Qwen2Config(**LLAMA_LIKE, tie_word_embeddings=True),
        "sliding": MistralConfig(**LLAMA_LIKE, sliding_window=5),
    }
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(configs[family]).eval()


def noisy(model: PreTrainedModel, noise: float = 0.02) -> PreTrainedModel:
    """A draft that is mostly right: the target with a little noise."""
    draft = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return draft


def inputs(prompt: list[int]) -> dict[str, Tensor]:
    ids = torch.tensor([prompt])
    # The mask is given because transformers otherwise takes token 0, an ordinary one here, for padding.
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def own(model: PreTrainedModel, prompt: list[int], **arguments: Any) -> Any:
    """What the model generates alone."""
    return model.generate(**inputs(prompt), **arguments)


def ours(model: PreTrainedModel, prompt: list[int], draft: PreTrainedModel, **arguments: Any) -> Any:
    """What it generates with a draft."""
    arguments = {"policy": "fixed:4", **arguments}
    return model.generate(**inputs(prompt), custom_generate=speculative_generate, draft=draft, **arguments)


def tokens(sequences: Tensor, prompt: list[int]) -> list[int]:
    assert sequences[0, : len(prompt)].tolist() == prompt
    return sequences[0, len(prompt) :].tolist()
