"""Models with random weights in the shapes of known ones: good for step times, not for texts."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

LONGEST = 1 << 17
"""Tokens of a random model's context."""


@dataclass(frozen=True)
class Shape:
    """A Llama-like decoder whose embedding is its head, too."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    dim: int
    """Of one head."""
    vocabulary: int


LLAMA = 128_256
SMOLLM2 = 49_152
PAIRS = {
    "smollm2": (Shape(576, 1536, 4, 9, 3, 64, SMOLLM2), Shape(576, 1536, 30, 9, 3, 64, SMOLLM2)),
    "llama-3.2": (Shape(2048, 8192, 16, 32, 8, 64, LLAMA), Shape(3072, 8192, 28, 24, 8, 128, LLAMA)),
}
"""Draft and target: the embedded pair; Llama-3.2-1B for Llama-3.2-3B (their config.json on the Hub)."""


def random_model(shape: Shape, precision: str, device: str) -> PreTrainedModel:
    """Return a model of random weights in fp16, int8 or nf4 (as bitsandbytes stores them), in evaluation mode."""
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.dim,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()
    if precision != "fp16":
        _compress(model, precision)
    return model


def _compress(model: PreTrainedModel, precision: str) -> None:
    """Store every linear layer but the head as bitsandbytes does for int8 or nf4."""
    for parent in list(model.base_model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, _compressed(child, precision))


def _compressed(linear: nn.Linear, precision: str) -> nn.Module:
    library: Any = importlib.import_module("bitsandbytes.nn")
    size, weight = (linear.in_features, linear.out_features), linear.weight.data
    layer: nn.Module
    if precision == "int8":
        layer = library.Linear8bitLt(*size, bias=False, has_fp16_weights=False, device="meta")
        stored = library.Int8Params(weight.cpu(), requires_grad=False)
    else:
        layer = library.Linear4bit(*size, bias=False, quant_type="nf4", compress_statistics=False, device="meta")
        stored = library.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=False)
    layer.weight = stored.to(weight.device)  # moving the weights compresses them
    return layer
