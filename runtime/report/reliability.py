"""How far an acceptance model's probabilities can be believed, as its package says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.contract import CONFIG_FILE
from runtime.errors import SpeckvError
from runtime.report.sources import read_config


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same probability."""

    predicted: float
    """Their mean, in [0, 1]."""
    observed: float
    """Share of them that came true, in [0, 1]."""
    count: int


@dataclass(frozen=True)
class Reliability:
    """The reliability curve of one model package."""

    package: str
    bins: list[Bin]
    expected_calibration_error: float
    """Mean of |observed − predicted| over all predictions (Naeini 2015); the package's own, where it weighs them."""


def read_reliability(models: Path) -> list[Reliability]:
    """Read `performance.reliability` of every package's config.json, a list of {predicted, observed, count}.

    `performance.calibration_error` beside it is taken over; without it, the bins weigh what they count.

    Raises:
        SpeckvError: naming the file whose list is something else.
    """
    curves = []
    for path in sorted(models.glob(f"*/{CONFIG_FILE}")):
        performance = read_config(path).get("performance")
        if isinstance(performance, dict) and performance.get("reliability"):
            curves.append(_curve(path, performance["reliability"], performance.get("calibration_error")))
    return curves


def _curve(path: Path, content: Any, given: Any) -> Reliability:
    try:
        bins = [Bin(float(row["predicted"]), float(row["observed"]), int(row["count"])) for row in content]
    except (TypeError, KeyError, ValueError):
        bins = []
    if not bins or not all(0 <= row.predicted <= 1 and 0 <= row.observed <= 1 and row.count > 0 for row in bins):
        raise SpeckvError(
            f"{path}: performance.reliability is no list of {{predicted, observed, count}} with shares in [0, 1] and "
            "counts above 0: export the package again"
        )
    total = sum(row.count for row in bins)
    error = sum(row.count * abs(row.observed - row.predicted) for row in bins) / total
    return Reliability(path.parent.name, bins, given if isinstance(given, float) and 0 <= given <= 1 else error)
