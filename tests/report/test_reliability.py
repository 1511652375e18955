"""Reliability curves out of model packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime import SpeckvError
from runtime.report.reliability import read_reliability


def package(models: Path, name: str, content: object) -> None:
    (models / name).mkdir()
    (models / name / "config.json").write_text(json.dumps(content))


def test_the_expected_calibration_error_by_hand(tmp_path: Path) -> None:
    bins = [{"predicted": 0.2, "observed": 0.1, "count": 30}, {"predicted": 0.8, "observed": 0.85, "count": 10}]
    package(tmp_path, "acceptance", {"performance": {"reliability": bins}})
    package(tmp_path, "other", {"performance": None})
    (curve,) = read_reliability(tmp_path)
    assert curve.package == "acceptance"
    assert curve.expected_calibration_error == pytest.approx((30 * 0.1 + 10 * 0.05) / 40)


def test_a_packages_own_error_is_taken_over(tmp_path: Path) -> None:
    bins = [{"predicted": 0.2, "observed": 0.1, "count": 30}]
    package(tmp_path, "acceptance", {"performance": {"reliability": bins, "calibration_error": 0.07}})
    assert read_reliability(tmp_path)[0].expected_calibration_error == 0.07


def test_no_package_holds_one(tmp_path: Path) -> None:
    package(tmp_path, "other", {})
    assert read_reliability(tmp_path) == []


@pytest.mark.parametrize(
    "bins",
    [
        "much",
        [{"predicted": 0.5}],
        [{"predicted": 1.5, "observed": 0.5, "count": 3}],
        [{"predicted": 0.5, "observed": 0.5, "count": 0}],
    ],
)
def test_a_damaged_curve_is_named(tmp_path: Path, bins: object) -> None:
    package(tmp_path, "broken", {"performance": {"reliability": bins}})
    with pytest.raises(SpeckvError, match="broken"):
        read_reliability(tmp_path)
