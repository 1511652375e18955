"""A tiny random target with skewed tokens, so that training has something to find, on CPU in seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from export.drafter.corpus import Documents

VOCABULARY = 96


def tiny_target(seed: int = 0, **changes: int) -> PreTrainedModel:
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{**sizes, **changes}, tie_word_embeddings=True, initializer_range=0.3, bos_token_id=1, eos_token_id=2
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def target() -> PreTrainedModel:
    return tiny_target()


@pytest.fixture(scope="session")
def documents() -> Documents:
    random = np.random.default_rng(7)
    lengths = random.integers(8, 60, 48)
    sequences = [random.integers(3, VOCABULARY, length).tolist() for length in lengths]
    return Documents.of(sequences, [int(n) for n in random.integers(1, 6, 48)])
