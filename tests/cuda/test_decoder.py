"""The decoder's kernels against transformers' own forward pass."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from runtime.cuda.decoder import Decoder
from runtime.cuda.weights import read_weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def llama(**changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 300,
        "hidden_size": 96,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "head_dim": 16,
        "initializer_range": 0.2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval().to(DEVICE)


def logits_of(model: PreTrainedModel, rows: list[list[int]], widths: list[int], capacity: int = 128) -> torch.Tensor:
    """Feed the texts side by side in calls of the given widths; return all logits `[texts, n, V]`."""
    weights = read_weights(model)
    decoder = Decoder(weights, len(rows), capacity, [(len(rows), max(widths))])
    text = torch.zeros(len(rows), capacity, dtype=torch.int32, device=DEVICE)
    text[:, : len(rows[0])] = torch.tensor(rows, device=DEVICE)
    starts = torch.zeros(len(rows), dtype=torch.int32, device=DEVICE)
    order = torch.arange(len(rows), dtype=torch.int32, device=DEVICE)
    found = []
    for width in widths:
        x = decoder.forward(text, order, starts, 0, width)
        out = torch.empty(len(rows) * width, weights.head.outputs, device=DEVICE)
        decoder.head(x.reshape(-1, x.shape[-1]), out)
        found.append(out.view(len(rows), width, -1))
        starts += width
    return torch.cat(found, 1)


@pytest.mark.parametrize("widths", [[12], [5, 1, 1, 3, 2]])
@pytest.mark.parametrize("texts", [1, 3])
def test_logits_are_those_of_transformers(widths: list[int], texts: int) -> None:
    model = llama()
    torch.manual_seed(1)
    rows = torch.randint(0, 300, (texts, sum(widths)))
    with torch.inference_mode():
        expected = model(rows.to(DEVICE)).logits
        torch.testing.assert_close(logits_of(model, rows.tolist(), widths), expected, rtol=1e-4, atol=1e-4)


def test_tokens_beyond_the_cache_harm_nobody() -> None:
    """A call that goes on past a row's last position gives the right logits up to there, in every row."""
    model, capacity = llama(), 10
    torch.manual_seed(2)
    rows = torch.randint(0, 300, (2, capacity), device=DEVICE)
    weights = read_weights(model)
    decoder = Decoder(weights, 2, capacity, [(2, 8)])
    text = rows.int()
    first, starts = torch.zeros(2, dtype=torch.int32, device=DEVICE), torch.tensor([6, 2], device=DEVICE).int()
    places = torch.arange(2, dtype=torch.int32, device=DEVICE)
    decoder.forward(text, places, first, 0, 6)
    decoder.forward(text, places[1:], first[1:], 0, 2)
    x = decoder.forward(text, places, starts, 0, 8)
    out = torch.empty(16, weights.head.outputs, device=DEVICE)
    decoder.head(x.reshape(16, -1), out)
    with torch.inference_mode():
        expected = model(rows).logits
    torch.testing.assert_close(out[:4], expected[0, 6:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out[8:], expected[1, 2:], rtol=1e-4, atol=1e-4)
