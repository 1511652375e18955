"""The predictor's numbers: rate = relu(x W1 + b1) W2 + b2."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neural_network import MLPRegressor

from export.predictor.unpickler import MAX_BYTES, PickledRegressor
from runtime.contract import FEATURES, WEIGHTS_FILE
from runtime.errors import SpeckvError
from runtime.npz import parse_npz

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """A 6-h-1 perceptron in the regressor's own dtype: W1 [6, h], b1 [h], W2 [h, 1], b2 [1]."""

    W1: npt.NDArray[Any]
    b1: npt.NDArray[Any]
    W2: npt.NDArray[Any]
    b2: npt.NDArray[Any]

    def rate(self, features: Floats) -> Floats:
        """Return the unclipped acceptance rate [n] of `features` [n, 6], in float64."""
        hidden = np.maximum(features @ self.W1 + self.b1, 0)
        rate: Floats = (hidden @ self.W2 + self.b2)[:, 0]
        return rate

    def regressor(self) -> MLPRegressor:
        """Return a scikit-learn regressor with these weights, whatever version fitted them."""
        regressor = MLPRegressor(hidden_layer_sizes=(len(self.b1),))
        regressor.coefs_, regressor.intercepts_ = [self.W1, self.W2], [self.b1, self.b2]
        regressor.n_features_in_, regressor.n_outputs_, regressor.n_layers_ = len(FEATURES), 1, 3
        regressor.out_activation_ = "identity"
        return regressor

    def npz(self) -> bytes:
        """Return the four arrays as an uncompressed npz file."""
        file = io.BytesIO()
        np.savez(file, W1=self.W1, b1=self.b1, W2=self.W2, b2=self.b2)
        return file.getvalue()

    @classmethod
    def from_npz(cls, data: bytes) -> Weights:
        """Read what `npz` wrote.

        Raises:
            SpeckvError: if it is damaged, or holds something else.
        """
        arrays = parse_npz(Path(WEIGHTS_FILE), data, MAX_BYTES, "export the package again")
        if set(arrays) != {"W1", "b1", "W2", "b2"}:
            raise SpeckvError(
                f"{WEIGHTS_FILE} holds {', '.join(arrays) or 'nothing'}, not W1, b1, W2, b2: export again"
            )
        return cls(**arrays)


def read_weights(pickled: PickledRegressor) -> Weights:
    """Return the weights of a pickled regressor.

    Raises:
        SpeckvError: naming the first attribute by which it is not a fitted SpecKV predictor.
    """
    name, state = pickled.name, pickled.state
    if "coefs_" not in state or "intercepts_" not in state:
        raise SpeckvError(f"{name}: the regressor has no 'coefs_': fit it before pickling it")
    for attribute, needed in (("activation", "relu"), ("out_activation_", "identity")):
        found = state.get(attribute)
        if not isinstance(found, str) or found != needed:
            is_it = repr(found) if isinstance(found, str) else f"a {type(found).__name__}"
            raise SpeckvError(f"{name}: '{attribute}' is {is_it}, a SpecKV predictor has {needed!r}")
    if "feature_names_in_" in state:
        names = state["feature_names_in_"]
        # numpy must not touch what this may be: an object can claim any memory as its array.
        if not isinstance(names, list) or not all(isinstance(feature, str) for feature in names):
            raise SpeckvError(f"{name}: 'feature_names_in_' holds something else than strings")
        if names != list(FEATURES):
            raise SpeckvError(f"{name}: fitted on {', '.join(names)}; needed in this order: {', '.join(FEATURES)}")
    layers = [*_pair(name, state, "coefs_"), *_pair(name, state, "intercepts_")]
    W1, W2, b1, b2 = (np.ascontiguousarray(layer) for layer in layers)
    hidden = W1.shape[-1]
    shapes = (("coefs_[0]", W1, (len(FEATURES), hidden)), ("intercepts_[0]", b1, (hidden,)),
              ("coefs_[1]", W2, (hidden, 1)), ("intercepts_[1]", b2, (1,)))  # fmt: skip
    for attribute, array, shape in shapes:
        if array.shape != shape or not hidden:
            raise SpeckvError(
                f"{name}: '{attribute}' has shape {array.shape}, a SpecKV predictor has (6, h) and (h, 1)"
            )
    return Weights(W1, b1, W2, b2)


def _pair(name: str, state: dict[str, Any], attribute: str) -> list[npt.NDArray[Any]]:
    arrays = state[attribute]
    if not isinstance(arrays, list) or len(arrays) != 2:
        count = len(arrays) if isinstance(arrays, list) else type(arrays).__name__
        raise SpeckvError(f"{name}: '{attribute}' has {count} layers, a SpecKV predictor has 2 (one hidden)")
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
            raise SpeckvError(f"{name}: '{attribute}' holds something else than float32 or float64 arrays")
        if not np.isfinite(array).all():
            raise SpeckvError(f"{name}: '{attribute}' holds NaN or infinity: fit the regressor again")
    return arrays
