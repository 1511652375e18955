"""Pairs and calls small enough for the kernels' interpreter, which takes its time."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from runtime.cuda import linear, pair
from runtime.cuda.tiles import Tiles
from tests.cuda.test_decoder import llama


def shorten_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call take a few tokens, so that a prompt needs several, and a kernel divide its work in one way."""
    monkeypatch.setattr(pair, "CHUNK", 8)
    monkeypatch.setattr(pair, "LONG_CHUNK", 16)
    monkeypatch.setattr(pair, "CATCH_UP", (1, 2, 4, 8))
    monkeypatch.setattr(linear, "tiles", lambda *_, **__: Tiles(16, 64, 32, splits=1, warps=4, stages=2))


def small_pair(vocabulary: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return a target of two layers, and its own first layer and ends: a draft that is right now and then."""
    shape = {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    target = llama(num_hidden_layers=2, **heads, **shape)
    draft = llama(num_hidden_layers=1, **heads, **shape)
    draft.load_state_dict({k: v for k, v in target.state_dict().items() if k in draft.state_dict()})
    return draft, target
