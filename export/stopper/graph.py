"""`speckv_stopper.onnx`: features `[batch, 37]` → probabilities `[batch, 2]`, four nodes."""

from __future__ import annotations

import json

import onnx
from onnx import TensorProto, helper, numpy_helper

from export.onnx_file import DEFAULT_OPSET, finish
from export.stopper.fit import Weights
from runtime.stopper.stopper import FEATURES


def build_stopper(weights: Weights, source_sha256: str) -> bytes:
    """Return the model as ONNX bytes, float32 throughout; `source_sha256` is that of the traces it was fitted on."""
    nodes = [
        helper.make_node("Gemm", ["features", "W1", "b1"], ["before"], "hidden"),
        helper.make_node("Relu", ["before"], ["after"], "relu"),
        helper.make_node("Gemm", ["after", "W2", "b2"], ["logits"], "output"),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"], "sigmoid"),
    ]
    graph: onnx.GraphProto = helper.make_graph(
        nodes,
        "speckv_stopper",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(weights.W1)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(getattr(weights, name), name) for name in ("W1", "b1", "W2", "b2")],
    )
    return finish(graph, DEFAULT_OPSET, source_sha256, {"features": json.dumps(FEATURES)})
