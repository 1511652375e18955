"""A graph's structure, compared before onnxruntime sees the file: the known operators, and weights of known shapes.

A manifest seals a package and says nothing of who made it. A graph can ask for any memory, never end, or read other
files; those of this format are a handful of operators on numbers, the same in every package but for the weights. So a
file is taken apart here, by the wire format of protobuf, and whatever differs is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.contract import DECISION_FILE, FORMAT_VERSION, STOPPER_FILE
from runtime.errors import SpeckvError

HIDDEN = -1
"""In a shape: the number of hidden units, the same wherever it stands."""

Shape = tuple[int, ...]
WEIGHTS: Mapping[str, Mapping[str, Shape]] = {
    DECISION_FILE: {
        **{"W1_signals": (4, HIDDEN), "b1_of_compression": (3, HIDDEN), "W1_gamma": (HIDDEN,)},
        **{"W2": (HIDDEN, 1), "b2": (1,)},
    },
    STOPPER_FILE: {"W1": (37, HIDDEN), "b1": (HIDDEN,), "W2": (HIDDEN, 2), "b2": (2,)},
}
"""What may differ between two packages' graphs."""

STRUCTURES = {
    DECISION_FILE: "7c325d4b4ac95b7b16c15f907e7ad7fd583009eebaf1f73f208663cd57897afd",
    STOPPER_FILE: "81b0bd631cc7894cc946a4e526594701852049b74221554e472873a4155e13d0",
}
"""Format 1: `digest` of the graphs."""

# Numbers of fields, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
GRAPH, INITIALIZER = 7, 5
METADATA, KEY, VALUE = 14, 1, 2
OF_THE_FILE = (1, 2, 3, 8, METADATA)
"""IR version, producer and its version, opsets, metadata: onnxruntime and whoever reads them check them."""
DIMS, DATA_TYPE, NAME, RAW_DATA = 1, 2, 8, 9
FLOATS: Mapping[int, np.dtype[Any]] = {1: np.dtype("<f4"), 11: np.dtype("<f8")}
"""Data type → dtype of a weight."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Kinds of field on the wire."""


class Graph(NamedTuple):
    """What a graph is made of."""

    weights: dict[str, NDArray[Any]]
    """By name, as `WEIGHTS` has them; float32 or float64."""
    metadata: dict[bytes, bytes]
    structure: str
    """SHA-256 of all but the weights and what describes the file."""


def read_graph(path: Path, content: bytes) -> Graph:
    """Take a graph apart, and refuse one that is not of this format; `content` was read from `path`.

    Raises:
        SpeckvError: naming the file, and what is wrong with it.
    """
    try:
        graph = take_apart(path.name, content)
    except ValueError as error:
        raise SpeckvError(
            f"{path} is not a graph of format {FORMAT_VERSION} ({error}): do not use this package"
        ) from None
    if graph.structure != STRUCTURES[path.name]:
        raise SpeckvError(
            f"{path} computes something else than a graph of format {FORMAT_VERSION} does: export the package again "
            "with this release, or do not use it"
        )
    return graph


def take_apart(name: str, content: bytes) -> Graph:
    """Return what a graph is made of.

    Args:
        name: of the file, one of `WEIGHTS`.
        content: its bytes.

    Raises:
        ValueError: if it is damaged, or a weight has another shape or is not finite.
    """
    parts: list[object] = []
    weights: dict[str, NDArray[Any]] = {}
    metadata: dict[bytes, bytes] = {}
    for number, value in _fields(content):
        if number == GRAPH and isinstance(value, bytes):
            parts.append(_without_weights(value, WEIGHTS[name], weights))
        elif number == METADATA and isinstance(value, bytes):
            entry = {key: text for key, text in _fields(value) if isinstance(text, bytes)}
            metadata[entry.get(KEY, b"")] = entry.get(VALUE, b"")
        elif number not in OF_THE_FILE:
            parts.append((number, value))
    shapes = {weight: array.shape for weight, array in weights.items()}
    hidden = shapes.get("W2", (0,))[0]
    for weight, wanted in WEIGHTS[name].items():
        if shapes.get(weight) != tuple(hidden if size == HIDDEN else size for size in wanted):
            raise ValueError(f"{weight} has shape {list(shapes.get(weight, ()))}")
    return Graph(weights, metadata, hashlib.sha256(repr(parts).encode()).hexdigest())


def _without_weights(graph: bytes, names: Collection[str], weights: dict[str, NDArray[Any]]) -> list[object]:
    """Return the fields of a graph, but of each weight of these `names` only the name; it goes into `weights`."""
    parts: list[object] = []
    for number, value in _fields(graph):
        if number == INITIALIZER and isinstance(value, bytes):
            fields = _fields(value)
            name = b"".join(part for key, part in fields if key == NAME and isinstance(part, bytes)).decode()
            if name in names:
                weights[name] = _tensor(name, fields)
                parts.append(name)
                continue
        parts.append((number, value))
    return parts


def _tensor(name: str, fields: list[tuple[int, int | bytes]]) -> NDArray[Any]:
    """Return a tensor whose elements are there, finite, and all that it says."""
    shape = tuple(value for number, value in fields if number == DIMS and isinstance(value, int))
    rest = dict(field for field in fields if field[0] != DIMS)
    dtype, data = FLOATS.get(int(rest.get(DATA_TYPE, 0))), rest.get(RAW_DATA)
    if rest.keys() != {DATA_TYPE, NAME, RAW_DATA} or len(fields) != len(shape) + 3 or not isinstance(data, bytes):
        raise ValueError(f"{name} is stored in another way")
    if dtype is None or not shape or len(data) % dtype.itemsize or not np.isfinite(np.frombuffer(data, dtype)).all():
        raise ValueError(f"{name} holds something else than finite numbers")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{name} has shape {list(shape)}, which is not that of its numbers")
    return np.frombuffer(data, dtype).reshape(shape)


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """Return the fields of a protobuf message in their order: number and value, bytes as they are on the wire."""
    fields: list[tuple[int, int | bytes]] = []
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            fields.append((key >> 3, value))
            continue
        if kind == LENGTH:
            size, place = _varint(message, place)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError("a field of an unknown kind")
        if place + size > len(message):
            raise ValueError("it ends early")
        fields.append((key >> 3, message[place : place + size]))
        place += size
    return fields


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the last one below 128, and the place behind it."""
    value = 0
    for count, byte in enumerate(message[place : place + 10]):
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, place + count + 1
    raise ValueError("it ends early")
