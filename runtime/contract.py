"""The words that other programs depend on: feature order, compression codes, file names.

Source: SpecKV (Shukla 2026, arXiv 2605.02888), published `config.json` and step records.
"""

from __future__ import annotations

SIGNALS = ("mean_draft_entropy", "mean_draft_confidence", "max_draft_entropy", "min_draft_confidence")
"""Order of the four draft signals; entropies in bits, confidences are top-1 probabilities."""

FEATURES = (*SIGNALS, "comp_enc", "gamma")
"""Input order of the SpecKV-MLP16 regressor."""

COMPRESSION_CODES = {"fp16": 0, "int8": 1, "nf4": 2}
"""Target precision to `comp_enc`."""

PRECISIONS = ("fp32", "bf16", *COMPRESSION_CODES)
"""What a target can be loaded in."""


def compression_of(precision: str) -> str:
    """Return what the selector is told of a precision: int8 and nf4 as they are, every other one is "fp16"."""
    return precision if precision in COMPRESSION_CODES else "fp16"


PUBLISHED_CANDIDATES = (2, 4, 6, 8)
"""The speculation lengths (tokens) that the published controller chooses from."""

MAX_ENTROPY_BITS = 32.0
"""Above log2 of any vocabulary: a larger entropy is not in bits, or not an entropy."""

PACKAGE_NAME = "speckv-mlp16"
PICKLE_FILE = "speckv_mlp16.pkl"
WEIGHTS_FILE = "speckv_mlp16_weights.npz"
PREDICTOR_FILE = "speckv_mlp16.onnx"
DECISION_FILE = "speckv_mlp16_gamma.onnx"
STOPPER_NAME = "speckv-stopper"
STOPPER_FILE = "speckv_stopper.onnx"
CONFIG_FILE = "config.json"
MANIFEST_FILE = "MANIFEST.json"

FORMAT_VERSION = "1"
"""Version of the package layouts and of the graphs' inputs and outputs: `speckv_format` in every manifest and graph."""
