"""Stopper packages of known weights, and numpy's idea of what they answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.manifest import manifest
from export.stopper.fit import Weights
from export.stopper.graph import build_stopper
from runtime.contract import MANIFEST_FILE, STOPPER_FILE, STOPPER_NAME
from runtime.stopper.stopper import FEATURES


def random_weights(seed: int, width: int = len(FEATURES), hidden: int = 36) -> Weights:
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> NDArray[np.float32]:
        return (0.3 * random.standard_normal(shape)).astype(np.float32)

    return Weights(draw(width, hidden), draw(hidden), draw(hidden, 2), draw(2))


def write_package(folder: Path, weights: Weights) -> Path:
    """What the runtime reads of a package."""
    return write_graph(folder, build_stopper(weights, "a test"))


def write_graph(folder: Path, graph: bytes) -> Path:
    """A package of any graph, with the manifest that agrees."""
    folder.mkdir(exist_ok=True)
    (folder / STOPPER_FILE).write_bytes(graph)
    (folder / MANIFEST_FILE).write_bytes(manifest(STOPPER_NAME, {STOPPER_FILE: graph}))
    return folder


def numpy_answer(weights: Weights, features: list[float]) -> NDArray[np.float64]:
    """The perceptron in float64, of features as float32 holds them."""
    W1, b1, W2, b2 = (array.astype(np.float64) for array in vars(weights).values())
    hidden = np.maximum(np.float32(features).astype(np.float64) @ W1 + b1, 0)
    return 1 / (1 + np.exp(-(hidden @ W2 + b2)))
