"""The package `speckv-stopper`: what it holds, as bytes, and the proof that its graph is its weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from export.license import license_text
from export.manifest import graph_details, json_bytes, manifest
from export.package_folder import CARD_FILE, LICENSE_FILE, REQUIREMENTS_FILE
from export.stopper.card import USAGE, model_card
from export.stopper.fit import Weights
from export.stopper.graph import build_stopper
from export.stopper.rows import Rows
from runtime.contract import CONFIG_FILE, MANIFEST_FILE, STOPPER_FILE, STOPPER_NAME
from runtime.decision.session import open_session
from runtime.errors import SpeckvError
from runtime.stopper.stopper import FEATURES

WEIGHTS_FILE = "speckv_stopper_weights.npz"
FILES = (STOPPER_FILE, WEIGHTS_FILE, CONFIG_FILE, REQUIREMENTS_FILE, CARD_FILE, LICENSE_FILE, MANIFEST_FILE)
"""Everything the package folder holds."""
PRODUCERS = ("numpy", "onnx", "torch")
TOLERANCE = 1e-5
"""Largest allowed difference between the graph's probabilities (float32) and the weights' (float64)."""


def package_files(
    weights: Weights, source_sha256: str, training: dict[str, Any], performance: dict[str, Any]
) -> dict[str, bytes]:
    """Return every file of the package by name; the same arguments give the same bytes.

    Args:
        weights: the fitted model.
        source_sha256: SHA-256 over the traces that it was fitted on.
        training: how it was fitted, for `config.json` and the card.
        performance: what was measured, likewise.
    """
    config = {
        "model_name": STOPPER_NAME,
        "description": "Predicts whether drafted tokens, and the next one, will stand verification.",
        "architecture": {
            "layers": [len(weights.W1), len(weights.b1), 2], "hidden_activation": "relu",
            "output_activation": "sigmoid", "parameters": sum(array.size for array in vars(weights).values()),
        },
        "input_features": {"order": list(FEATURES), "units": "entropies in bits, lengths in tokens, logits natural"},
        "output": {"name": "probabilities", "order": ["the last drafted token stands", "the next one will"]},
        "usage": USAGE.splitlines(),
        "training": training,
        "performance": performance,
        "license": "MIT",
        "repository": "https://github.com/speckv/speckv",
    }  # fmt: skip
    arrays = io.BytesIO()
    np.savez(arrays, **vars(weights))
    files = {
        STOPPER_FILE: build_stopper(weights, source_sha256),
        WEIGHTS_FILE: arrays.getvalue(),
        CONFIG_FILE: json_bytes(config),
        REQUIREMENTS_FILE: b"numpy>=1.24\nonnxruntime>=1.16\n",
        CARD_FILE: model_card(config).encode(),
        LICENSE_FILE: license_text(published=False).encode(),
    }
    details = graph_details(files[STOPPER_FILE], source_sha256, PRODUCERS)
    return {**files, MANIFEST_FILE: manifest(STOPPER_NAME, files, details)}


def check_parity(folder: Path, weights: Weights, rows: Rows) -> float:
    """Return the largest difference of the written graph and the weights over all rows.

    Raises:
        SpeckvError: if it exceeds 1e-5.
    """
    (found,) = open_session(folder / STOPPER_FILE, "cpu").run(None, {"features": rows.features})
    difference = float(np.abs(found - weights.probabilities(rows.features)).max())
    if not difference <= TOLERANCE:  # so that NaN fails as well
        raise SpeckvError(f"{STOPPER_FILE} differs from its weights by {difference:.3g}, more than {TOLERANCE:g}")
    return difference
