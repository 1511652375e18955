"""The bytes that decoding must read, counted by hand, and the bandwidth that they are divided by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runtime.bench import roofline
from runtime.bench.roofline import Limit, Reading, cache_bytes, copy_bandwidth, reading, stored_bytes
from runtime.bench.score import Runs
from runtime.pair.draft import load_draft
from runtime.pair.target import load_target

HIDDEN, LAYERS, VOCABULARY, KV = 64, 3, 61, 32
LAYER = HIDDEN * (2 * HIDDEN + 2 * KV) + 3 * HIDDEN * 2 * HIDDEN
"""Weights of a layer's matrices: queries and outputs, keys and values, the MLP."""
NORMS = (2 * LAYERS + 1) * HIDDEN
TABLE = VOCABULARY * HIDDEN


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2)])
def test_bytes_of_a_model_in_floating_point(target_folder: Path, precision: str, size: int) -> None:
    model = load_target(str(target_folder), precision, "cpu").model
    weights = LAYERS * LAYER + NORMS
    assert stored_bytes(model) == size * (weights + 2 * TABLE)
    assert reading(model).weights == size * (weights + TABLE)  # of the embedding table a pass reads some rows
    assert reading(model).position == cache_bytes(model) == size * 2 * LAYERS * KV


@pytest.mark.parametrize(
    ("precision", "matrices"),
    [
        ("int8", LAYERS * (LAYER + 4 * (2 * HIDDEN + 2 * KV + 4 * HIDDEN + HIDDEN))),
        ("nf4", LAYERS * (LAYER // 2 + 4 * LAYER // 64) + 4 * 16 * 7 * LAYERS),
    ],
)
def test_bytes_of_a_compressed_model_count_its_scales(target_folder: Path, precision: str, matrices: int) -> None:
    model = load_target(str(target_folder), precision, "cpu").model
    rest = 2 * (NORMS + TABLE)
    read = reading(model).weights
    # NF4's table of 16 codes may be one for all layers, or each layer's own.
    assert matrices + rest - 4 * 16 * 7 * LAYERS <= read <= matrices + rest


def test_tied_embeddings_are_read_as_the_head_and_a_draft_shares_its_targets_tensors(target_folder: Path) -> None:
    target = load_target(str(target_folder), "fp32", "cpu")
    draft = load_draft("early-exit:2", target)
    assert stored_bytes(target.model, draft) == stored_bytes(target.model)
    assert reading(draft).weights == reading(target.model).weights - 4 * (LAYER + 2 * HIDDEN)
    own = target.model.lm_head.weight
    try:
        target.model.lm_head.weight = target.model.model.embed_tokens.weight
        assert reading(target.model).weights == stored_bytes(target.model) == 4 * (LAYERS * LAYER + NORMS + TABLE)
    finally:
        target.model.lm_head.weight = own


def test_a_text_reads_the_weights_every_pass_and_half_of_what_it_writes() -> None:
    limit = Limit(draft=Reading(10, 1), target=Reading(100, 2), bandwidth=1000)
    plain = Runs(0, "chat", [9.0], tokens=[8], steps=[8], drafted=[0])
    assert limit.text_bytes(plain, 6) == 100 + 8 * (100 + 2 * 10)
    drafted = Runs(0, "chat", [9.0] * 3, tokens=[8] * 3, steps=[4, 3, 2], drafted=[6, 5, 1])
    assert limit.text_bytes(drafted, 6) == 100 + 3 * (100 + 2 * 10) + 10 + 5 * (10 + 10)
    both = limit.tokens_per_second([plain, drafted], [6, 6])
    assert both == 16 * 1000 / (limit.text_bytes(plain, 6) + limit.text_bytes(drafted, 6))


def test_bandwidth_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.COPIED, "cpu", 1000)
    ticks = iter([0, 5, *(t for i in range(9) for t in (10 * i, 10 * i + (2 if i != 4 else 9)))])
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(ticks))
    assert copy_bandwidth(torch.device("cpu")) == 2 * 1000 / 2
