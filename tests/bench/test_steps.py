"""The fast loop's calls on random weights: measured in the kernels' interpreter, their limit counted by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from runtime.__main__ import main
from runtime.bench import roofline, shapes, steps
from runtime.bench.roofline import reading, stored_bytes
from runtime.bench.shapes import Shape, random_model
from runtime.commands import roofline as command
from runtime.cuda import pair as pair_module
from runtime.cuda.matrix import INT8, NF4
from runtime.cuda.weights import read_weights
from runtime.rows import read_rows

TINY = Shape(hidden=64, intermediate=64, layers=1, heads=2, kv_heads=1, dim=32, vocabulary=64)
MATRICES = 64 * (2 * 64 + 2 * 32) + 3 * 64 * 64
"""Weights of queries and outputs, keys and values, the MLP."""
REST = 2 * (64 * 64 + 3 * 64)
"""Bytes of the embedding, which is the head, and of the norms, in fp16."""


@pytest.mark.parametrize(("precision", "kind"), [("fp16", 0), ("int8", INT8), ("nf4", NF4)])
def test_random_weights_are_those_that_the_kernels_read(precision: str, kind: int) -> None:
    model = random_model(TINY, precision, "cpu")
    weights = read_weights(model)
    assert {weights.layers[0].q.kind, weights.layers[0].down.kind} == {kind}
    assert weights.head.kind == 0
    scales = {"fp16": 0, "int8": 4 * (2 * 64 + 2 * 32 + 3 * 64), "nf4": 4 * MATRICES // 64}[precision]
    codes = 7 * 16 * 4 if precision == "nf4" else 0  # the same for all layers, or each layer's own
    size = {"fp16": 2, "int8": 1, "nf4": 0.5}[precision]
    assert size * MATRICES + scales + REST <= stored_bytes(model) <= size * MATRICES + scales + REST + codes


@pytest.mark.parametrize("name", shapes.PAIRS)
def test_shapes_are_as_large_as_the_models_they_are_named_for(name: str) -> None:
    def parameters(shape: Shape) -> int:
        attention = shape.hidden * shape.dim * (2 * shape.heads + 2 * shape.kv_heads)
        layer = attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden
        return shape.layers * layer + shape.hidden * (shape.vocabulary + 1)

    # The Hub's model pages; the drafter's own 14.2 million and the embedding that it shares.
    known = {"smollm2": (14_160_960 + 576 * 49_152, 134_515_008), "llama-3.2": (1_235_814_400, 3_212_749_824)}
    assert tuple(map(parameters, shapes.PAIRS[name])) == known[name]


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "REPEATS", 1)
    monkeypatch.setattr(steps, "LONGEST", 4)
    monkeypatch.setattr(pair_module, "CHUNK", 8)
    monkeypatch.setattr(pair_module, "CATCH_UP", (1, 2, 4, 8))
    monkeypatch.setitem(roofline.COPIED, "cpu", 1 << 20)


@pytest.mark.usefixtures("_quick")
def test_a_pair_is_timed_at_every_context() -> None:
    said: list[str] = []
    rows = list(steps.measure_steps((TINY, TINY), "fp16", (4, 12), "cpu", said.append))
    assert [row.context for row in rows] == [4, 12]
    assert len(said) == 3
    model = random_model(TINY, "fp16", "cpu")
    for row in rows:
        read = 2 * MATRICES + REST + row.context * 2 * 32 * 2
        assert reading(model).forward(row.context) == read
        for call in (row.draft, row.verify):
            assert call.limit_ms == pytest.approx(read / row.copy_bytes_per_second * 1e3)
            assert call.times_limit == pytest.approx(call.ms / call.limit_ms)
            assert call.ms > 0
        assert row.expected_bytes == 2 * (stored_bytes(model) + (row.context + 4) * 2 * 32 * 2)
        assert row.peak_bytes is None


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["roofline"]) == 2
    assert "NVIDIA GPU" in capsys.readouterr().err


def test_the_command_keeps_and_prints_its_rows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    call = steps.Call(ms=0.5123, limit_ms=0.35, times_limit=1.4637)
    rows = [
        {"pair": "smollm2", "device": "M", **dataclasses.asdict(steps.StepRow("fp16", n, 4.3e12, call, call, 500, 510))}
        for n in (256, 4096)
    ]
    monkeypatch.setattr(command, "_measure", lambda _: iter(rows))
    path = tmp_path / "rows.json"
    assert main(["roofline", "--json", "--output", str(path)]) == 0
    assert read_rows(path, "roofline") == rows == json.loads(capsys.readouterr().out)["rows"]
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["roofline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.split()[:1] == ["smollm2"] for line in lines) == 2
    assert all("0.512  0.350  1.46" in line and "1.020" in line for line in lines if "smollm2" in line)


def test_the_names_of_pairs_are_those_that_there_are() -> None:
    assert set(command.PAIRS) == shapes.PAIRS.keys()
