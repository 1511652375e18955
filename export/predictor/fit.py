"""The published fit: one MLP of 16 hidden units, a held-out split, and a refit on every record."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor

from export.predictor.records import Records
from runtime.errors import SpeckvError

Estimator = TypeVar("Estimator", MLPRegressor, RandomForestRegressor)

SEED = 42
TEST_SHARE = 0.2
HIDDEN_UNITS = 16
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Fit:
    """The predictor of one set of records.

    Attributes:
        regressor: fitted on all records; this is what a package ships.
        test: int64 [t], the rows held out for the figures.
        mse: mean squared error on `test` of a regressor fitted on the other rows, rates clipped to [0, 1].
        correlation: Pearson correlation of the same predictions with the measured rates.
    """

    regressor: MLPRegressor
    test: npt.NDArray[np.int64]
    mse: float
    correlation: float


def fit_predictor(records: Records) -> Fit:
    """Fit as the paper does: figures from a held-out fifth, then a refit on all records.

    Raises:
        SpeckvError: if there are too few records to hold a fifth of every compression and task out.
    """
    train, test = _split(records)
    held_out = fit_regressor(records.features[train], records.acceptance_rate[train])
    predicted = np.clip(held_out.predict(records.features[test]), 0, 1)
    measured = records.acceptance_rate[test]
    return Fit(
        regressor=fit_regressor(records.features, records.acceptance_rate),
        test=test,
        mse=float(np.mean((predicted - measured) ** 2)),
        correlation=_correlation(predicted, measured),
    )


def fit_regressor(features: npt.NDArray[np.float64], rates: npt.NDArray[np.float64]) -> MLPRegressor:
    """Fit the published regressor on `features` [n, 6] and `rates` [n].

    Raises:
        SpeckvError: if scikit-learn cannot fit them.
    """
    # `hidden_layer_sizes` by name: the first positional argument of scikit-learn 1.9's MLPRegressor is `loss`.
    regressor = MLPRegressor(hidden_layer_sizes=(HIDDEN_UNITS,), max_iter=MAX_ITERATIONS, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # scikit-learn turns Ctrl-C into this warning and returns a half-fitted regressor: that must never be exported.
        warnings.filterwarnings("error", message="Training interrupted")
        try:
            return fit_on(regressor, features, rates)
        except UserWarning:
            raise KeyboardInterrupt from None


def fit_on(regressor: Estimator, features: npt.NDArray[np.float64], rates: npt.NDArray[np.float64]) -> Estimator:
    """Fit `regressor` on `features` [n, 6] and `rates` [n] and return it.

    Raises:
        SpeckvError: if scikit-learn refuses them.
    """
    try:
        fitted: Estimator = regressor.fit(features, rates)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise SpeckvError(f"the {type(regressor).__name__} cannot be fitted ({reason}); check the records") from None
    return fitted


def _split(records: Records) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    stratum = np.char.add(np.char.add(records.compression, "_"), records.task)
    names, counts = np.unique(stratum, return_counts=True)
    if counts.min() < 2 or np.ceil(TEST_SHARE * len(records)) < len(names):
        smallest = f"'{names[counts.argmin()]}' has {counts.min()} of {len(records)}"
        raise SpeckvError(
            f"too few records to hold {TEST_SHARE:.0%} of every compression and task out: {smallest}; give more records"
        )
    train, test = train_test_split(np.arange(len(records)), test_size=TEST_SHARE, random_state=SEED, stratify=stratum)
    return train, test


def _correlation(predicted: npt.NDArray[np.float64], measured: npt.NDArray[np.float64]) -> float:
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        raise SpeckvError("the held-out records all have one acceptance rate: nothing to fit; give more varied records")
    return float(np.corrcoef(predicted, measured)[0, 1])
