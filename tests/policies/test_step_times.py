"""Step times from a file: interpolated, and refused by name where they are missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime import SpeckvError
from runtime.policies.step_times import StepTimes, read_step_times

CONTENT = {
    "draft": {"eager1": 5.0, "eager2": 6.0, "graph1": 0.5},
    "fp16": {"eager1": 20.0, "eager5": 24.0, "eager9": 40.0, "graph1": 3.0},
    "int8": {"eager1": 100.0},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "step_times_ms.json"
    file.write_text(json.dumps(CONTENT))
    return file


def test_linear_between_and_flat_outside(path: Path) -> None:
    times = read_step_times(path, "fp16", "eager")
    assert [times.target_ms(q) for q in (1, 2, 5, 7, 9, 17, 1000)] == [20, 21, 24, 32, 40, 40, 40]
    assert [times.draft_ms(q) for q in (1, 2, 3)] == [5, 6, 6]


def test_a_step_is_its_drafts_and_one_verification() -> None:
    times = StepTimes({1: 5.0, 2: 6.0}, {1: 20.0, 5: 24.0})
    assert times.step_ms(0) == times.step_ms(0, pending=9) == 20
    assert times.step_ms(3) == 3 * 5 + 23
    assert times.step_ms(3, pending=2) == 6 + 2 * 5 + 23


@pytest.mark.parametrize(
    ("precision", "backend", "said"),
    [
        ("int8", "graph", "no graph step times of 'int8' (it has eager)"),
        ("fp16", "compiled", "no compiled step times of 'draft' (it has eager, graph)"),
        ("nf4", "eager", "no step times of 'nf4' (it holds draft, fp16, int8)"),
    ],
)
def test_what_is_missing_is_named(path: Path, precision: str, backend: str, said: str) -> None:
    with pytest.raises(SpeckvError) as error:
        read_step_times(path, precision, backend)
    assert said in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"draft": 3}',
        '{"draft": {"eager1": -1}}',
        '{"draft": {"eager1": "5"}}',
        '{"draft": {"eager1": Infinity}}',
    ],
)
def test_a_damaged_file_is_one_line(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SpeckvError, match="step_times_ms"):
        read_step_times(path, "fp16", "eager")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpeckvError, match="nowhere"):
        read_step_times(tmp_path / "nowhere.json", "fp16", "eager")
