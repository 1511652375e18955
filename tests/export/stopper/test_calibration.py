"""Calibration figures on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from export.stopper.calibration import BINS, calibrate
from export.stopper.rows import Rows


def rows(labels: np.ndarray, weights: np.ndarray | None = None) -> Rows:
    weights = np.ones_like(labels) if weights is None else weights
    return Rows(
        np.zeros((len(labels), 1), np.float32), *(np.float32(a) for a in (labels, weights)), np.arange(len(labels))
    )


def test_four_decisions_by_hand() -> None:
    predicted = np.float32([[0.9, 0.2], [0.8, 0.6]])
    found = calibrate(rows(np.array([[1, 0], [0, 1]]), np.array([[1, 3], [1, 1]])), predicted)
    assert found.log_loss == pytest.approx(
        (-(math.log(0.9) + math.log(0.2)) / 2, -(3 * math.log(0.8) + math.log(0.6)) / 4), rel=1e-5
    )
    # Each in a bin of its own; the weights are 1, 1, 3 and 1 of 6.
    assert found.error == pytest.approx((1 * 0.1 + 1 * 0.8 + 3 * 0.2 + 1 * 0.4) / 6, rel=1e-5)
    assert [line["predicted"] for line in found.reliability] == pytest.approx([0.2, 0.6, 0.8, 0.9])
    assert [line["observed"] for line in found.reliability] == [0, 1, 0, 1]


def test_a_calibrated_model_has_no_error_and_its_entropy_as_loss() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(0, 1, (200_000, 2)).astype(np.float32)
    found = calibrate(rows(random.random(p.shape) < p), p)
    assert found.error < 0.005
    assert found.log_loss == pytest.approx((0.5, 0.5), abs=0.005)  # mean of −p ln p − (1 − p) ln(1 − p)
    assert len(found.reliability) == BINS
    assert sum(line["count"] for line in found.reliability) == 400_000


def test_an_overconfident_model_is_found_out() -> None:
    random = np.random.default_rng(0)
    labels = random.random((50_000, 2)) < 0.6
    found = calibrate(rows(labels), np.full(labels.shape, 0.9, np.float32))
    assert found.error == pytest.approx(0.3, abs=0.01)
    (line,) = found.reliability
    assert (line["count"], line["observed"]) == (100_000, pytest.approx(0.6, abs=0.01))


def test_what_has_no_weight_is_not_looked_at() -> None:
    labels, weights = np.array([[1, 0], [0, 0]]), np.array([[1, 1], [0, 0.3]])
    sure = np.float32([[0.7, 0.1], [0.99, 0.2]])
    found, other = (calibrate(rows(array, weights), sure) for array in (labels, np.array([[1, 0], [1, 0]])))
    assert found == other
    assert sum(line["count"] for line in found.reliability) == 3


@pytest.mark.parametrize("label", [0, 1])
def test_certainty_is_finite_right_or_wrong(label: int) -> None:
    found = calibrate(rows(np.full((2, 2), label)), np.float32([[0, 1], [1, 0]]))
    assert np.isfinite([*found.log_loss, found.error]).all()
    assert found.error == pytest.approx(0.5, abs=1e-6)
    assert [line["count"] for line in found.reliability] == [2, 2]
