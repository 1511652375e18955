"""What a package folder holds, as bytes: the artifacts, what describes them, and the manifest that seals them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.license import license_text
from export.manifest import graph_details, json_bytes, manifest
from export.package_folder import CARD_FILE, LICENSE_FILE, REQUIREMENTS_FILE
from export.predictor.card import USAGE, model_card
from export.predictor.decision_graph import build_decision
from export.predictor.predictor_graph import build_predictor
from export.predictor.unpickler import PickledRegressor
from export.predictor.weights import Weights
from runtime.contract import (
    COMPRESSION_CODES,
    CONFIG_FILE,
    DECISION_FILE,
    FEATURES,
    MANIFEST_FILE,
    PACKAGE_NAME,
    PICKLE_FILE,
    PREDICTOR_FILE,
    PUBLISHED_CANDIDATES,
    WEIGHTS_FILE,
)
from runtime.errors import SpeckvError
from runtime.manifest import read_files, read_manifest

FILES = (PICKLE_FILE, WEIGHTS_FILE, PREDICTOR_FILE, DECISION_FILE, CONFIG_FILE, REQUIREMENTS_FILE, CARD_FILE,
         LICENSE_FILE, MANIFEST_FILE)  # fmt: skip
"""Everything a package folder holds."""

REQUIREMENTS = "numpy>=1.24\nonnxruntime>=1.16\n"

PRODUCERS = ("numpy", "onnx", "scikit-learn", "skl2onnx")

FILE_PURPOSES = {
    PREDICTOR_FILE: "the regressor: features -> predicted acceptance rate, not clipped",
    DECISION_FILE: "the whole decision in one call: signals, compression, candidates, step costs -> gamma",
    WEIGHTS_FILE: "the weights as numpy arrays W1, b1, W2, b2",
    PICKLE_FILE: "the scikit-learn regressor that all other files are made from",
    REQUIREMENTS_FILE: "what a user of the ONNX files installs",
    MANIFEST_FILE: "size and SHA-256 of every file, opset, IR version, producer versions",
}


@dataclass(frozen=True)
class Figures:
    """What was measured when a regressor was fitted: the `training` and `performance` entries of `config.json`."""

    training: dict[str, Any]
    performance: dict[str, Any]

    @property
    def published(self) -> bool:
        """Whether the regressor was fitted on the paper's own records."""
        return self.training.get("published_records") is True


def package_files(pickled: PickledRegressor, weights: Weights, figures: Figures | None, opset: int) -> dict[str, bytes]:
    """Return every file of a package by name; the same arguments give the same bytes.

    Args:
        pickled: the regressor's pickle, shipped as it is.
        weights: its weights.
        figures: what is known of its fit, or None.
        opset: opset of both graphs.
    """
    published = figures is not None and figures.published
    config = _config(weights, figures, published)
    files = {
        PICKLE_FILE: pickled.data,
        WEIGHTS_FILE: weights.npz(),
        PREDICTOR_FILE: build_predictor(weights, opset, pickled.sha256),
        DECISION_FILE: build_decision(weights, opset, pickled.sha256),
        CONFIG_FILE: json_bytes(config),
        REQUIREMENTS_FILE: REQUIREMENTS.encode(),
        CARD_FILE: model_card(config, published).encode(),
        LICENSE_FILE: license_text(published).encode(),
    }
    details = graph_details(files[DECISION_FILE], pickled.sha256, PRODUCERS)
    return {**files, MANIFEST_FILE: manifest(PACKAGE_NAME, files, details)}


def known_figures(folders: list[Path], sha256: str) -> Figures | None:
    """Return the figures that a package in one of `folders` holds for the pickle with this SHA-256.

    Only an intact package counts: its manifest must name this pickle, and its `config.json` as it is on disk.
    """
    for folder in folders:
        try:
            if read_manifest(folder).hashes.get(PICKLE_FILE) != sha256:
                continue
            values = json.loads(read_files(folder, CONFIG_FILE)[0])
            if values["performance"] is not None:
                return Figures(values["training"], values["performance"])
        except (SpeckvError, ValueError, KeyError, TypeError):
            continue
    return None


def _config(weights: Weights, figures: Figures | None, published: bool) -> dict[str, Any]:
    layers = [len(FEATURES), len(weights.b1), 1]
    return {
        "model_name": PACKAGE_NAME,
        "description": "Predicts the acceptance rate of a speculative decoding step and chooses how much to draft.",
        "architecture": {
            "type": "MLPRegressor", "layers": layers, "hidden_activation": "relu", "output_activation": "identity",
            "parameters": weights.W1.size + weights.b1.size + weights.W2.size + weights.b2.size,
        },
        "input_features": {"order": list(FEATURES), "comp_enc": COMPRESSION_CODES,
                           "units": "entropies in bits, confidences are top-1 probabilities, gamma in tokens"},
        "output": {"name": "predicted_acceptance_rate", "range": "clip to [0, 1]",
                   "decision": "first largest of rate * gamma + 1, divided by the step cost",
                   "candidates": list(PUBLISHED_CANDIDATES)},
        "usage": USAGE.splitlines(),
        "training": figures.training if figures else None,
        "performance": figures.performance if figures else None,
        "files": FILE_PURPOSES,
        "license": "MIT" if published else "see LICENSE",
        "paper": "https://arxiv.org/abs/2605.02888",
        "repository": "https://github.com/speckv/speckv",
    }  # fmt: skip
