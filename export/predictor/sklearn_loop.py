"""The published decision loop on the shipped regressor, as a process that `python -m runtime latency` times.

One JSON array of signal rows a line on standard input, one JSON object a line back. `runtime` itself never imports
scikit-learn.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from export.predictor.unpickler import read_pickle
from export.predictor.weights import read_weights
from runtime.artifacts import package_folder
from runtime.contract import PICKLE_FILE, PUBLISHED_CANDIDATES


def select(regressor: Any, features: np.ndarray[Any, np.dtype[np.float64]]) -> int:
    """Return the gamma with the most expected tokens: four `predict` calls (SpecKV, algorithm 1)."""
    # Written out row by row, not through `published_loop`: this is what the published code does, and what is timed.
    best, best_gamma = 0.0, PUBLISHED_CANDIDATES[0]
    for gamma in PUBLISHED_CANDIDATES:
        row = np.append(features, gamma).reshape(1, -1)
        tokens = float(np.clip(regressor.predict(row)[0], 0, 1)) * gamma + 1
        if tokens > best:
            best, best_gamma = tokens, gamma
    return best_gamma


def main() -> int:
    """Answer lines until the input ends."""
    regressor = read_weights(read_pickle(package_folder() / PICKLE_FILE)).regressor()
    for line in sys.stdin:
        rows = [np.asarray([*signals, 0.0]) for signals in json.loads(line)]  # comp_enc 0: fp16
        start = time.perf_counter()
        gammas = [select(regressor, row) for row in rows]
        print(json.dumps({"gamma": gammas, "seconds": time.perf_counter() - start}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
