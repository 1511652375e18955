"""The published score of a speculation length, for many rows at once (SpecKV, Shukla 2026, algorithm 1)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Regressor(Protocol):
    """A fitted scikit-learn regressor."""

    def predict(self, X: Floats) -> Floats:
        """Return rates [n] for features [n, 6]."""


def clipped_rate(regressor: Regressor, features: Floats, gamma: Floats | int) -> Floats:
    """Return clip(rate, 0, 1) in float64 [n], with column 5 of `features` [n, 6] replaced by `gamma`."""
    asked = features.copy()
    asked[:, 5] = gamma
    rate: Floats = np.clip(regressor.predict(asked), 0, 1)
    return rate


def expected_tokens(regressor: Regressor, features: Floats, gamma: Floats | int) -> Floats:
    """Return clip(rate, 0, 1) * gamma + 1 in float64 [n] for `features` [n, 6] with `gamma` (one, or [n])."""
    return clipped_rate(regressor, features, gamma) * gamma + 1
