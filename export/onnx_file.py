"""What all graphs share: opset and IR version, metadata, checks, bytes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import ModelProto, helper

import export
from runtime.contract import FORMAT_VERSION
from runtime.errors import SpeckvError

DEFAULT_OPSET = 17
"""Opset 17 with IR version 8 is what onnxruntime 1.16 and newer load."""

OPSETS = range(13, 22)
"""From the opset where axes became inputs to the newest that skl2onnx writes."""


def check_opset(opset: int) -> None:
    """Raise SpeckvError unless both graphs can be written in `opset`."""
    if opset not in OPSETS:
        raise SpeckvError(
            f"opset {opset} is not supported: choose {OPSETS[0]} to {OPSETS[-1]} "
            f"({DEFAULT_OPSET}, the default, loads in onnxruntime 1.16 and newer)"
        )


def finish(graph: onnx.GraphProto, opset: int, source_sha256: str, properties: Mapping[str, str]) -> bytes:
    """Return `graph` as the bytes of a checked model, the same bytes for the same graph.

    Args:
        graph: the graph, inputs and outputs named and shaped.
        opset: its opset; the IR version is the oldest that allows it.
        source_sha256: SHA-256 of what the weights come from.
        properties: metadata of this kind of graph.

    Raises:
        onnx.checker.ValidationError: if the graph is not valid ONNX with complete shapes.
    """
    model: ModelProto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        producer_name="speckv",
        producer_version=export.__version__,
    )
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    helper.set_model_props(
        model,
        {
            "speckv_format": FORMAT_VERSION,
            "speckv_version": export.__version__,
            **properties,
            "source_sha256": source_sha256,
        },
    )
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
