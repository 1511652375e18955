"""The decision through the ONNX graph: the published rule, its edges, and what it refuses."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from export.manifest import manifest
from runtime import GammaSelector, Signals, SpeckvError
from runtime.artifacts import package_folder
from runtime.contract import DECISION_FILE, MANIFEST_FILE, PACKAGE_NAME, PUBLISHED_CANDIDATES, WEIGHTS_FILE
from runtime.decision.latency import random_signals
from runtime.decision.session import open_session

GOOD = Signals(0.9, 0.82, 1.7, 0.55)


@pytest.fixture(scope="module")
def selector() -> GammaSelector:
    return GammaSelector()


def published_rates(signals: np.ndarray, code: int, candidates: np.ndarray) -> np.ndarray:
    """The regressor's forward pass in float64, from its weights: rates `[batch, k]`, clipped."""
    weights = np.load(package_folder() / WEIGHTS_FILE, allow_pickle=False)
    rates = []
    for gamma in candidates:
        x = np.column_stack([signals.astype(np.float64), np.full(len(signals), code), np.full(len(signals), gamma)])
        hidden = np.maximum(x @ weights["W1"] + weights["b1"], 0)
        rates.append(np.clip(hidden @ weights["W2"] + weights["b2"], 0, 1)[:, 0])
    return np.stack(rates, 1)


@pytest.mark.parametrize(("compression", "code"), [("fp16", 0), ("int8", 1), ("nf4", 2)])
def test_one_decision_is_the_published_rule(selector: GammaSelector, compression: str, code: int) -> None:
    rows = random_signals(300)
    candidates = np.asarray(PUBLISHED_CANDIDATES)
    rates = published_rates(rows, code, candidates)
    tokens = rates * candidates + 1
    for row, rate, expected in zip(rows.tolist(), rates, tokens, strict=True):
        decision = selector.select(row, compression)
        assert decision.gamma == candidates[np.argmax(expected)]
        np.testing.assert_allclose(decision.expected_tokens, expected, atol=1e-6)
        np.testing.assert_allclose(decision.predicted_acceptance_rate, rate, atol=1e-6)
        assert decision == decision._replace(gamma=selector.select(row, code).gamma)


def test_a_batch_decides_as_its_rows(selector: GammaSelector) -> None:
    for batch in (0, 1, 7, 4096):
        rows = random_signals(batch)
        result = selector.select_batch(rows, "nf4")
        assert result.gamma.shape == (batch,)
        assert result.expected_tokens.shape == result.predicted_acceptance_rate.shape == (batch, 4)
        assert result.gamma[:50].tolist() == [selector.select(row, "nf4").gamma for row in rows[:50].tolist()]


def test_mixed_compressions_in_a_batch(selector: GammaSelector) -> None:
    rows = random_signals(6)
    codes = np.asarray([0, 1, 2, 2, 1, 0])
    result = selector.select_batch(rows, codes)
    alone = [selector.select(row, int(code)) for row, code in zip(rows.tolist(), codes, strict=True)]
    np.testing.assert_array_equal(result.expected_tokens, [decision.expected_tokens for decision in alone])
    names = np.asarray(["fp16", "int8", "nf4", "nf4", "int8", "fp16"])
    np.testing.assert_array_equal(selector.select_batch(rows, names).gamma, result.gamma)


def test_step_cost_divides_the_expected_tokens(selector: GammaSelector) -> None:
    free = selector.select(GOOD, "fp16", [1, 4, 8])
    costs = [1.0, 4.0, 16.0]
    costly = selector.select(GOOD, "fp16", [1, 4, 8], costs)
    np.testing.assert_array_equal(costly.expected_tokens, free.expected_tokens)
    assert costly.gamma == [1, 4, 8][int(np.argmax(free.expected_tokens / np.asarray(costs)))]
    assert costly.gamma != free.gamma


def test_the_first_of_equal_candidates_wins(selector: GammaSelector) -> None:
    sure = (32.0, 0.0, 32.0, 0.0)  # far outside the records the rate is clipped to 1: gamma + 1 tokens exactly
    decision = selector.select(sure, "fp16", [6, 2, 8], step_cost=[7.0, 3.0, 9.0])
    assert decision.expected_tokens.tolist() == [7, 3, 9]
    assert decision.gamma == 6


def test_results_outlive_the_next_call(selector: GammaSelector) -> None:
    first = selector.select(GOOD, "fp16")
    before = first.expected_tokens.tolist()
    selector.select((3.0, 0.2, 5.0, 0.1), "nf4")
    assert first.expected_tokens.tolist() == before


def test_one_selector_serves_many_threads(selector: GammaSelector) -> None:
    rows = random_signals(400).tolist()
    alone = [selector.select(row, "int8").expected_tokens.tolist() for row in rows]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda row: selector.select(row, "int8").expected_tokens.tolist(), rows))
    assert together == alone


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01, 1.01, 33.0])
def test_signals_out_of_range_are_refused_by_name(selector: GammaSelector, position: int, value: float) -> None:
    if value == 1.01 and position in (0, 2):
        pytest.skip("an entropy of 1.01 bits is a good one")
    bad = list(GOOD)
    bad[position] = value
    name = Signals._fields[position]
    with pytest.raises(SpeckvError, match=name):
        selector.select(bad, "fp16")
    with pytest.raises(SpeckvError, match=rf"row 1: {name}"):
        selector.select_batch([GOOD, bad], "fp16")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (((0.1, 0.2, 0.3), "fp16"), "signals"),
        ((("a", 0, 0, 0), "fp16"), "signals"),
        ((None, "fp16"), "signals"),
        ((GOOD, "int4"), "compression"),
        ((GOOD, 3), "compression"),
        ((GOOD, True), "compression"),
        ((GOOD, None), "compression"),
        ((GOOD, "fp16", []), "candidates"),
        ((GOOD, "fp16", [2.5]), "candidates"),
        ((GOOD, "fp16", [-1, 2]), "candidates"),
        ((GOOD, "fp16", [2, 4], [1.0]), "step_cost"),
        ((GOOD, "fp16", [2, 4], [1.0, 0.0]), "step_cost"),
        ((GOOD, "fp16", [2, 4], [1.0, math.nan]), "step_cost"),
        ((GOOD, "fp16", [2, 4], ["a", "b"]), "step_cost"),
        ((GOOD, "fp16", [2, 4], [1.0, 1e39]), "step_cost"),
        ((GOOD, "fp16", [2, 4], [1.0, 1e-46]), "step_cost"),
        ((GOOD, "fp16", [2**63]), "candidates"),
        ((GOOD, "fp16", np.asarray([2**63], np.uint64)), "candidates"),
        ((GOOD, "fp16", [[1], [2, 3]]), "candidates"),
        ((GOOD, np.asarray([1, 2])), "compression"),
        ((GOOD, [1]), "compression"),
        ((set(GOOD), "fp16"), "signals"),
        ((dict(zip(GOOD, GOOD, strict=True)), "fp16"), "signals"),
        ((np.zeros((4, 2)), "fp16"), "signals"),
        (([10**400, 0, 1, 1], "fp16"), "signals"),
        (([10**5000, 0, 1, 1], "fp16"), "signals"),
        ((GOOD, 10**5000), "compression"),
        ((GOOD, [10**5000]), "compression"),
        ((GOOD, "fp16", [10**5000]), "candidates"),
        ((GOOD, "fp16", [2, 4], [1.0, 10**400]), "step_cost"),
    ],
)
def test_other_bad_arguments_are_refused_by_name(
    selector: GammaSelector, arguments: tuple[object, ...], named: str
) -> None:
    with pytest.raises(SpeckvError, match=named):
        selector.select(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("signals", "compression", "named"),
    [
        ([0.1, 0.2], "fp16", "shape"),
        ([GOOD], [0, 1], "compression"),
        ([GOOD], [5], "row 0"),
        ([GOOD], ["x"], "'x'"),
        ([[10**400, 0, 1, 1]], "fp16", "signals"),
        ([GOOD], [10**5000], "row 0"),
    ],
)
def test_bad_batches_are_refused(selector: GammaSelector, signals: object, compression: object, named: str) -> None:
    with pytest.raises(SpeckvError, match=named):
        selector.select_batch(signals, compression)  # type: ignore[arg-type]


def test_cuda_that_cannot_be_had_is_an_error_that_says_why() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(SpeckvError, match="build without it"):
        GammaSelector(providers="cuda")
    with pytest.raises(SpeckvError, match="'auto', 'cpu' or 'cuda'"):
        GammaSelector(providers="tpu")


def test_a_copy_and_a_pickled_selector_decide_alike(selector: GammaSelector) -> None:
    expected = selector.select(GOOD, "nf4").expected_tokens.tolist()
    for twin in (copy.deepcopy(selector), pickle.loads(pickle.dumps(selector))):
        assert twin.select(GOOD, "nf4").expected_tokens.tolist() == expected


def test_numbers_of_numpy_are_numbers(selector: GammaSelector) -> None:
    plain = selector.select(GOOD, 2, [3, 5], [1.0, 2.0])
    for signals in (np.asarray(GOOD, np.float64), iter(GOOD)):
        result = selector.select(signals, np.int64(2), np.asarray([3, 5]), np.asarray([1.0, 2.0]))  # type: ignore[arg-type]
        assert result.gamma == plain.gamma
    assert selector.select_batch([GOOD], np.int64(2)).gamma.tolist() == [selector.select(GOOD, 2).gamma]


def test_missing_and_broken_graphs_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpeckvError, match=r"MANIFEST\.json: no such file"):
        GammaSelector(tmp_path)
    files = {DECISION_FILE: b"not a graph"}
    (tmp_path / DECISION_FILE).write_bytes(files[DECISION_FILE])
    (tmp_path / MANIFEST_FILE).write_bytes(manifest(PACKAGE_NAME, files))
    with pytest.raises(SpeckvError, match=rf"{DECISION_FILE} is not a graph of format 1"):
        GammaSelector(tmp_path)


def test_the_session_is_private_and_single_threaded() -> None:
    options = open_session(package_folder() / DECISION_FILE, "cpu").get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def run_python(script: str, **environment: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_decision_imports_neither_torch_nor_sklearn_nor_pickle_users() -> None:
    """What a service that only decides needs: numpy and onnxruntime."""
    script = (
        "import sys, runtime; runtime.GammaSelector().select((0.9, 0.8, 1.7, 0.5), 'fp16')\n"
        "print(*[name for name in ('torch', 'transformers', 'sklearn', 'export', 'onnx') if name in sys.modules])"
    )
    assert run_python(script).strip() == ""


def test_telemetry_is_off_whatever_the_environment_says(tmp_path: Path) -> None:
    """No file may appear in the user's folders, and no network address be looked up, when a decision is made."""
    script = "import runtime, os; runtime.GammaSelector(); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert run_python(script, ORT_DISABLE_TELEMETRY="0", **home).strip() == "1"
    assert list(tmp_path.iterdir()) == []
