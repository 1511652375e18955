"""The vectors that every language's test reads: made anew they are the same, and Python's decision gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.__main__ import main
from export.predictor.vectors import VECTORS
from runtime import GammaSelector
from runtime.artifacts import package_folder
from runtime.contract import DECISION_FILE, PUBLISHED_CANDIDATES
from runtime.decision.session import open_session

CONTENT: dict[str, Any] = json.loads(VECTORS.read_text(encoding="utf-8"))
FLOATS = ("expected_tokens", "predicted_acceptance_rate")
CASES = [pytest.param(case, id=case["name"]) for case in CONTENT["cases"]]
PUBLISHED = [
    pytest.param(case, id=case["name"])
    for case in CONTENT["cases"]
    if case["candidates"] == list(PUBLISHED_CANDIDATES) and set(case["step_cost"]) == {1.0}
]


@pytest.fixture(scope="module")
def selector() -> GammaSelector:
    return GammaSelector()


@pytest.fixture(scope="module")
def session() -> Any:
    return open_session(package_folder() / DECISION_FILE, "cpu")


def assert_close(found: object, expected: list[Any]) -> None:
    # The file's own rule: absolute up to 1, relative above.
    values, right = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert values.size == right.size
    difference = np.abs(values.ravel() - right.ravel()) / np.maximum(np.abs(right.ravel()), 1)
    assert (difference <= CONTENT["tolerance"]).all()


def test_the_regressor_gives_the_file_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vectors", "--output", str(tmp_path / "again.json")]) == 0
    assert f"{len(CASES)} cases" in capsys.readouterr().out
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    for case, new in zip(CONTENT["cases"], again["cases"], strict=True):
        for name in FLOATS:  # another processor sums in another order
            np.testing.assert_allclose(new.pop(name), case[name], rtol=0, atol=1e-8)
    without = [{key: value for key, value in case.items() if key not in FLOATS} for case in CONTENT["cases"]]
    assert again == {**CONTENT, "cases": without}


def test_the_file_is_small_and_covers_what_it_must() -> None:
    assert VECTORS.stat().st_size < 200_000
    cases = CONTENT["cases"]
    assert {code for case in cases for code in case["comp_enc"]} == {0, 1, 2}
    rates = [rate for case in cases for row in case["predicted_acceptance_rate"] for rate in row]
    assert 0.0 in rates
    assert 1.0 in rates
    assert any(0 < rate < 1 for rate in rates)
    published = [case for case in cases if case["candidates"] == list(PUBLISHED_CANDIDATES) and len(case["gamma"]) == 1]
    assert {case["gamma"][0] for case in published} >= {2, 8}
    assert sorted(len(case["gamma"]) for case in cases)[0] == 0
    ties = [case for case in cases if case["signals"] and tied(case)]
    assert len(ties) >= 5


def tied(case: dict[str, Any]) -> bool:
    scores = np.asarray(case["expected_tokens"][0]) / case["step_cost"]
    return bool((scores == scores.max()).sum() > 1)


@pytest.mark.parametrize("case", CASES)
def test_the_graph_itself(session: Any, case: dict[str, Any]) -> None:
    feed = {
        "signals": np.asarray(case["signals"], np.float32).reshape(-1, 4),
        "comp_enc": np.asarray(case["comp_enc"], np.int64),
        "candidates": np.asarray(case["candidates"], np.int64),
        "step_cost": np.asarray(case["step_cost"], np.float32),
    }
    gamma, tokens, rates = session.run(None, feed)
    assert gamma.tolist() == case["gamma"]
    assert_close(tokens, case["expected_tokens"])
    assert_close(rates, case["predicted_acceptance_rate"])


@pytest.mark.parametrize("case", CASES)
def test_the_selector(selector: GammaSelector, case: dict[str, Any]) -> None:
    rule = {"candidates": case["candidates"], "step_cost": case["step_cost"]}
    batch = selector.select_batch(np.reshape(case["signals"], (-1, 4)), case["comp_enc"], **rule)
    assert batch.gamma.tolist() == case["gamma"]
    assert_close(batch.expected_tokens, case["expected_tokens"])
    assert_close(batch.predicted_acceptance_rate, case["predicted_acceptance_rate"])
    for row, (signals, code) in enumerate(zip(case["signals"], case["comp_enc"], strict=True)):
        decision = selector.select(signals, code, **rule)
        assert decision.gamma == case["gamma"][row]
        assert_close(decision.expected_tokens, case["expected_tokens"][row])


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_defaults_are_the_published_rule(selector: GammaSelector, case: dict[str, Any]) -> None:
    for signals, code, gamma in zip(case["signals"], case["comp_enc"], case["gamma"], strict=True):
        assert selector.select(signals, code).gamma == gamma


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vectors", "--output", str(tmp_path / "no" / "file.json")]) == 2
    assert "choose another place with --output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["notes", '{"cases": []}'])
def test_what_is_no_file_of_vectors_stays(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "NOTES").write_text(content)
    (tmp_path / "link").symlink_to("NOTES")
    for name in ("NOTES", "link"):
        assert main(["vectors", "--output", str(tmp_path / name)]) == 2
        assert "choose another place with --output" in capsys.readouterr().err
    assert (tmp_path / "NOTES").read_text() == content
    assert (tmp_path / "link").is_symlink()
