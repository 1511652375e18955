"""How well predicted probabilities agree with what happened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.stopper.rows import Rows

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Of the decisions that count (weight above 0), each with its weight."""

    log_loss: tuple[float, float]
    """Nats per decision: of the last drafted token, of the next one."""
    error: float
    """Expected calibration error over both (Naeini 2015): mean |observed − predicted| over bins of equal width."""
    reliability: list[dict[str, float]]
    """Per bin `predicted`, `observed` and `count` (of decisions, not weighted)."""


def calibrate(rows: Rows, probabilities: NDArray[np.float32]) -> Calibration:
    """Compare `probabilities` `[n, 2]` with the rows' labels."""
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    losses = -(rows.labels * np.log(p) + (1 - rows.labels) * np.log(1 - p))
    accepted, following = (losses * rows.weights).sum(0) / rows.weights.sum(0)
    counts = rows.weights > 0
    error, reliability = _bins(p[counts], rows.labels[counts], rows.weights[counts])
    return Calibration((float(accepted), float(following)), error, reliability)


def _bins(
    predicted: NDArray[np.float64], observed: NDArray[np.float32], weights: NDArray[np.float32]
) -> tuple[float, list[dict[str, float]]]:
    places = np.minimum((predicted * BINS).astype(int), BINS - 1)
    error, bins = 0.0, []
    for place in range(BINS):
        chosen = places == place
        if not chosen.any():
            continue
        means = [float(np.average(values[chosen], weights=weights[chosen])) for values in (predicted, observed)]
        error += abs(means[1] - means[0]) * float(weights[chosen].sum() / weights.sum())
        bins.append({"predicted": means[0], "observed": means[1], "count": int(chosen.sum())})
    return error, bins
