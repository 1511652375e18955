"""The two ONNX files as another engine meets them: contract, metadata, versions, and the published loop's answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from packaging.version import Version

from export.onnx_file import OPSETS
from export.predictor.decision_graph import build_decision
from export.predictor.parity import edge_rows, random_rows
from export.predictor.records import read_records
from export.predictor.unpickler import read_pickle
from export.predictor.weights import Weights, read_weights
from runtime.artifacts import package_folder
from runtime.contract import (
    DECISION_FILE,
    FEATURES,
    MANIFEST_FILE,
    PICKLE_FILE,
    PREDICTOR_FILE,
    PUBLISHED_CANDIDATES,
    WEIGHTS_FILE,
)
from runtime.decision.session import open_session
from tests.export.conftest import OLD_PICKLE, run

SHIPPED = package_folder()
CANDIDATES = np.array(PUBLISHED_CANDIDATES)


@pytest.fixture(scope="module")
def regressor():
    return read_weights(read_pickle(SHIPPED / PICKLE_FILE)).regressor()


def published_loop(regressor, rows: np.ndarray, candidates=CANDIDATES, costs=None) -> tuple[np.ndarray, np.ndarray]:
    """Return gamma [n] and expected tokens [n, k] of the paper's loop in float64, all rows at once."""
    costs = np.ones(len(candidates)) if costs is None else costs
    best = np.full(len(rows), -np.inf)
    chosen = np.zeros(len(rows), dtype=np.int64)
    every = []
    for gamma, cost in zip(candidates, costs, strict=True):
        features = np.column_stack([rows[:, :5], np.full(len(rows), gamma)]).astype(np.float64)
        tokens = np.clip(regressor.predict(features), 0, 1) * gamma + 1
        better = tokens / cost > best
        best = np.where(better, tokens / cost, best)
        chosen = np.where(better, gamma, chosen)
        every.append(tokens)
    return chosen, np.stack(every, axis=1)


def decide(file: Path, rows: np.ndarray, candidates=CANDIDATES, costs=None) -> list[np.ndarray]:
    costs = np.ones(len(candidates)) if costs is None else costs
    feeds = {"signals": rows[:, :4].astype(np.float32), "comp_enc": rows[:, 4].astype(np.int64),
             "candidates": np.asarray(candidates, dtype=np.int64), "step_cost": costs.astype(np.float32)}  # fmt: skip
    return open_session(file, "cpu").run(None, feeds)


@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_parity_of_all_files_at_batch(batch: int, regressor) -> None:
    rows = np.concatenate([edge_rows(), random_rows(20_000)])[-batch:].astype(np.float32)
    exact = rows.astype(np.float64)
    rate = regressor.predict(exact)
    predicted = open_session(SHIPPED / PREDICTOR_FILE, "cpu").run(None, {"features": rows})[0]
    assert (predicted.shape, predicted.dtype) == ((batch, 1), np.float32)
    np.testing.assert_allclose(predicted[:, 0], rate, rtol=0, atol=1e-6)
    npz = Weights.from_npz((SHIPPED / WEIGHTS_FILE).read_bytes())
    np.testing.assert_allclose(npz.rate(exact), rate, rtol=0, atol=1e-6)
    gamma, tokens, rates = decide(SHIPPED / DECISION_FILE, rows)
    expected_gamma, expected_tokens = published_loop(regressor, exact)
    np.testing.assert_array_equal(gamma, expected_gamma)
    np.testing.assert_allclose(tokens, expected_tokens, rtol=0, atol=1e-6)
    np.testing.assert_allclose(rates, (expected_tokens - 1) / CANDIDATES, rtol=0, atol=1e-6)


def test_batch_0_answers_nothing() -> None:
    none = np.zeros((0, 6), dtype=np.float32)
    assert open_session(SHIPPED / PREDICTOR_FILE, "cpu").run(None, {"features": none})[0].shape == (0, 1)
    assert [output.shape for output in decide(SHIPPED / DECISION_FILE, none)] == [(0,), (0, 4), (0, 4)]


def test_gamma_equals_the_published_loop_on_100_000_rows_and_edges(regressor) -> None:
    rows = np.concatenate([random_rows(), edge_rows()]).astype(np.float32)
    gamma, tokens, _ = decide(SHIPPED / DECISION_FILE, rows)
    expected_gamma, expected_tokens = published_loop(regressor, rows.astype(np.float64))
    np.testing.assert_array_equal(gamma, expected_gamma)
    np.testing.assert_allclose(tokens, expected_tokens, rtol=0, atol=1e-6)
    assert set(gamma) == set(CANDIDATES)  # the comparison saw every answer


def test_gamma_equals_the_published_loop_on_the_published_records(regressor, published: Path) -> None:
    # As printed, in float64: rounding the signals to float32 changes no choice.
    rows = read_records([published / "phase2_step_results.csv"]).features
    expected_gamma, expected_tokens = published_loop(regressor, rows)
    gamma, tokens, _ = decide(SHIPPED / DECISION_FILE, rows)
    np.testing.assert_array_equal(gamma, expected_gamma)
    np.testing.assert_allclose(tokens, expected_tokens, rtol=0, atol=1e-6)


@pytest.mark.parametrize("candidates", [(5,), (1, 2, 3), (8, 6, 4, 2), tuple(range(1, 33)), (0, 4)])
def test_any_candidates_and_costs_follow_the_rule(candidates: tuple[int, ...], regressor) -> None:
    rows = random_rows(3000).astype(np.float32)
    costs = np.linspace(1, 2.5, len(candidates)).astype(np.float32)
    gamma, tokens, _ = decide(SHIPPED / DECISION_FILE, rows, candidates, costs)
    expected_gamma, expected_tokens = published_loop(
        regressor, rows.astype(np.float64), candidates, costs.astype(np.float64)
    )
    np.testing.assert_array_equal(gamma, expected_gamma)
    np.testing.assert_allclose(tokens, expected_tokens, rtol=1e-6, atol=1e-6)  # up to 33 tokens: float32 has 7 digits


def test_of_equal_candidates_the_first_wins(tmp_path: Path) -> None:
    # Nothing would be accepted, so every length is worth the one token of the target.
    nothing = Weights(np.zeros((6, 3)), np.zeros(3), np.zeros((3, 1)), np.zeros(1))
    (tmp_path / "zero.onnx").write_bytes(build_decision(nothing, 17, "none"))
    gamma, tokens, rates = decide(tmp_path / "zero.onnx", random_rows(2), (6, 2, 4))
    assert (gamma.tolist(), tokens.tolist(), rates.tolist()) == ([6, 6], [[1, 1, 1]] * 2, [[0, 0, 0]] * 2)


def test_an_unknown_compression_is_an_error_and_not_an_answer() -> None:
    with pytest.raises(Exception, match="indices element out of data bounds"):
        decide(SHIPPED / DECISION_FILE, np.array([[1, 0.5, 1, 0.5, 3, 0]], dtype=np.float32))


def test_predictor_is_not_clipped() -> None:
    rows = random_rows(5000).astype(np.float32)
    predicted = open_session(SHIPPED / PREDICTOR_FILE, "cpu").run(None, {"features": rows})[0]
    assert predicted.min() < -0.1
    assert predicted.max() > 1.1


def dimensions(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    kind = value.type.tensor_type
    return value.name, kind.elem_type, [dim.dim_param or dim.dim_value for dim in kind.shape.dim]


def test_inputs_and_outputs_are_the_contract() -> None:
    float32, int64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    predictor, decision = onnx.load(SHIPPED / PREDICTOR_FILE).graph, onnx.load(SHIPPED / DECISION_FILE).graph
    assert [dimensions(value) for value in predictor.input] == [("features", float32, ["batch", 6])]
    assert [dimensions(value) for value in predictor.output] == [("predicted_acceptance_rate", float32, ["batch", 1])]
    assert [dimensions(value) for value in decision.input] == [
        ("signals", float32, ["batch", 4]), ("comp_enc", int64, ["batch"]),
        ("candidates", int64, ["k"]), ("step_cost", float32, ["k"]),
    ]  # fmt: skip
    assert [dimensions(value) for value in decision.output] == [
        ("gamma", int64, ["batch"]), ("expected_tokens", float32, ["batch", "k"]),
        ("predicted_acceptance_rate", float32, ["batch", "k"]),
    ]  # fmt: skip
    for graph in (predictor, decision):
        assert not {value.name for value in graph.input} & {value.name for value in graph.initializer}


@pytest.mark.parametrize("file", [PREDICTOR_FILE, DECISION_FILE])
def test_shipped_graphs_are_valid_old_enough_and_say_what_they_are(file: str) -> None:
    model = onnx.load(SHIPPED / file)
    onnx.checker.check_model(model, full_check=True)
    # What onnxruntime 1.16 reads: opset 19 and IR version 9 are its last.
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    manifest = json.loads((SHIPPED / MANIFEST_FILE).read_text())
    assert json.loads(metadata["features"]) == list(FEATURES)
    assert json.loads(metadata["candidates"]) == list(PUBLISHED_CANDIDATES)
    assert metadata["source_sha256"] == read_pickle(SHIPPED / PICKLE_FILE).sha256 == manifest["source_sha256"]
    assert (metadata["speckv_format"], metadata["speckv_version"]) == ("1", manifest["version"])
    assert open_session(SHIPPED / file, "cpu").get_modelmeta().custom_metadata_map == metadata


@pytest.mark.parametrize("opset", [OPSETS[0], 18, OPSETS[-1]])
def test_every_opset_gives_the_oldest_ir_that_allows_it(opset: int, tmp_path: Path) -> None:
    if opset == OPSETS[-1] and Version(onnxruntime.__version__) < Version("1.18"):
        pytest.skip("an onnxruntime that cannot run it: parity fails, and nothing is written")
    assert run("--pickle", OLD_PICKLE, "--output", tmp_path / "p", "--opset", opset, "--json") == 0
    for file in (PREDICTOR_FILE, DECISION_FILE):
        model = onnx.load(tmp_path / "p" / file)
        assert model.opset_import[0].version == opset
        assert model.ir_version == {13: 7, 18: 8, 21: 10}[opset]
    manifest = json.loads((tmp_path / "p" / MANIFEST_FILE).read_text())
    assert (manifest["opset"], manifest["ir_version"]) == (opset, model.ir_version)


def test_edge_rows_hold_every_extreme() -> None:
    rows = edge_rows()
    assert len(np.unique(rows, axis=0)) == len(rows)
    signals = set(itertools.product((0, 1, 12), (0, 1), (0, 1, 12), (0, 1), (0, 1, 2)))
    assert {tuple(row[:5]) for row in rows.tolist()} == signals
