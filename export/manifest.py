"""The manifest that seals a package: what `runtime.manifest` reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import onnx

import export
from runtime.contract import FORMAT_VERSION


def manifest(package: str, files: Mapping[str, bytes], details: Mapping[str, Any] | None = None) -> bytes:
    """Return MANIFEST.json of a package: format, name, `details`, and size and SHA-256 of every one of `files`."""
    return json_bytes(
        {
            "speckv_format": FORMAT_VERSION,
            "package": package,
            "version": export.__version__,
            **(details or {}),
            "files": {
                name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in sorted(files.items())
            },
        }
    )


def graph_details(graph: bytes, source_sha256: str, producers: Sequence[str]) -> dict[str, Any]:
    """Return what a manifest says of a package's graphs.

    Args:
        graph: one of them; all are of one opset.
        source_sha256: SHA-256 of what the weights come from.
        producers: distributions whose versions it names.
    """
    model = onnx.load_from_string(graph)
    return {
        "source_sha256": source_sha256,
        "opset": model.opset_import[0].version,
        "ir_version": model.ir_version,
        "producers": {name: version(name) for name in producers},
    }


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Return `value` as the packages' JSON files are written."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
