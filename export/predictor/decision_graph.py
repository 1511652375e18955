"""`speckv_mlp16_gamma.onnx`: the whole decision in one call.

    rate[b, k]            = clip(relu(x[b] W1 + b1) W2 + b2, 0, 1),  x = signals[b], comp_enc[b], candidates[k]
    expected_tokens[b, k] = rate[b, k] * candidates[k] + 1
    gamma[b]              = candidates[first argmax over k of expected_tokens[b, k] / step_cost[k]]

(SpecKV, Shukla 2026, with `step_cost` of ones; the contract is in `runtime/contract.py` and the model card.)

The graph computes in float64 and rounds only its float outputs to float32, because the published loop is float64: in
float32 two candidates whose expected tokens differ by less than a rounding would swap, and `gamma` with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.onnx_file import finish
from export.predictor.predictor_graph import PROPERTIES
from export.predictor.weights import Weights
from runtime.contract import COMPRESSION_CODES, SIGNALS

INPUTS = (
    ("signals", TensorProto.FLOAT, ["batch", len(SIGNALS)]),
    ("comp_enc", TensorProto.INT64, ["batch"]),
    ("candidates", TensorProto.INT64, ["k"]),
    ("step_cost", TensorProto.FLOAT, ["k"]),
)
OUTPUTS = (
    ("gamma", TensorProto.INT64, ["batch"]),
    ("expected_tokens", TensorProto.FLOAT, ["batch", "k"]),
    ("predicted_acceptance_rate", TensorProto.FLOAT, ["batch", "k"]),
)


def build_decision(weights: Weights, opset: int, source_sha256: str) -> bytes:
    """Return the decision graph of `weights` as ONNX bytes; see `onnx_file.finish` for the arguments."""
    graph = helper.make_graph(
        _nodes(),
        "speckv_mlp16_gamma",
        [helper.make_tensor_value_info(*value) for value in INPUTS],
        [helper.make_tensor_value_info(*value) for value in OUTPUTS],
        [numpy_helper.from_array(array, name) for name, array in _constants(weights).items()],
    )
    return finish(graph, opset, source_sha256, PROPERTIES)


def _constants(weights: Weights) -> dict[str, npt.NDArray[np.float64] | npt.NDArray[np.int64]]:
    W1 = weights.W1.astype(np.float64)
    signal_rows, compression_row, gamma_row = W1[:4], W1[4], W1[5]
    codes = np.arange(len(COMPRESSION_CODES), dtype=np.float64)
    return {
        "W1_signals": signal_rows,
        # b1 + comp_enc * W1[4] for every code: one look-up, and an unknown code is an error instead of a wrong answer.
        "b1_of_compression": weights.b1.astype(np.float64) + codes[:, None] * compression_row,
        "W1_gamma": gamma_row,
        "W2": weights.W2.astype(np.float64),
        "b2": weights.b2.astype(np.float64),
        "zero": np.array(0.0),
        "one": np.array(1.0),
        "axis_1": np.array([1], dtype=np.int64),
        "axis_2": np.array([2], dtype=np.int64),
    }


def _nodes() -> list[NodeProto]:
    return [
        # Hidden layer: what the row gives [batch, 1, h] plus what the candidate gives [k, h].
        _node("Cast", ["signals"], "x", to=TensorProto.DOUBLE),
        _node("Gather", ["b1_of_compression", "comp_enc"], "bias"),
        _node("Gemm", ["x", "W1_signals", "bias"], "from_row"),
        _node("Unsqueeze", ["from_row", "axis_1"], "from_row_3d"),
        _node("Cast", ["candidates"], "gammas", to=TensorProto.DOUBLE),
        _node("Unsqueeze", ["gammas", "axis_1"], "gammas_2d"),
        _node("Mul", ["gammas_2d", "W1_gamma"], "from_gamma"),
        _node("Add", ["from_row_3d", "from_gamma"], "sum"),
        _node("Relu", ["sum"], "hidden"),
        # Output layer [batch, k]. W2 stays a column, squeezed after: onnxruntime's MatMul by a vector fails on batch 0.
        _node("MatMul", ["hidden", "W2"], "weighted"),
        _node("Squeeze", ["weighted", "axis_2"], "weighted_2d"),
        _node("Add", ["weighted_2d", "b2"], "raw_rate"),
        _node("Clip", ["raw_rate", "zero", "one"], "rate"),
        # The published rule.
        _node("Mul", ["rate", "gammas"], "accepted"),
        _node("Add", ["accepted", "one"], "tokens"),
        _node("Cast", ["step_cost"], "cost", to=TensorProto.DOUBLE),
        _node("Div", ["tokens", "cost"], "score"),
        _node("ArgMax", ["score"], "best", axis=1, keepdims=0, select_last_index=0),
        _node("Gather", ["candidates", "best"], "gamma"),
        _node("Cast", ["tokens"], "expected_tokens", to=TensorProto.FLOAT),
        _node("Cast", ["rate"], "predicted_acceptance_rate", to=TensorProto.FLOAT),
    ]


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"{operator}_{output}", **attributes)
