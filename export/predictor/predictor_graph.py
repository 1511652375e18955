"""`speckv_mlp16.onnx`: the regressor alone, features [batch, 6] -> unclipped predicted_acceptance_rate [batch, 1]."""

from __future__ import annotations

import json

import onnx
from onnx import TensorProto, helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import DoubleTensorType

from export.onnx_file import finish
from export.predictor.weights import Weights
from runtime.contract import FEATURES, PUBLISHED_CANDIDATES

INPUT = "features"
OUTPUT = "predicted_acceptance_rate"
PROPERTIES = {"features": json.dumps(FEATURES), "candidates": json.dumps(PUBLISHED_CANDIDATES)}
"""Metadata of both graphs."""


def build_predictor(weights: Weights, opset: int, source_sha256: str) -> bytes:
    """Return the predictor graph of `weights` as ONNX bytes; see `onnx_file.finish` for the arguments.

    Input and output are float32. Between them it computes in float64, as the regressor does: in float32 the rates of
    large entropies differ from the regressor's by up to 2.5e-6, which is more than the 1e-6 that the package promises.
    """
    converted = convert_sklearn(
        weights.regressor(),
        initial_types=[("features_double", DoubleTensorType([None, len(FEATURES)]))],
        final_types=[("rate_double", DoubleTensorType([None, 1]))],
        target_opset=opset,
    )
    nodes = [
        helper.make_node("Cast", [INPUT], ["features_double"], "features_to_double", to=TensorProto.DOUBLE),
        *converted.graph.node,
        helper.make_node("Cast", ["rate_double"], [OUTPUT], "rate_to_float", to=TensorProto.FLOAT),
    ]
    graph: onnx.GraphProto = helper.make_graph(
        nodes,
        "speckv_mlp16",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", len(FEATURES)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])],
        list(converted.graph.initializer),
    )
    return finish(graph, opset, source_sha256, PROPERTIES)
