"""How the products are divided among a GPU's programs: what was fastest, or nearly so, on an H200 for the shapes of
models of 135 M to 3 B; no more shared memory than a device has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton

from runtime.cuda.matrix import FLOAT, INT8, NF4, NF4_BLOCK

FEW_ROWS, FEW_OUTPUTS = 2, 6000
"""Rows up to which `few_product` is the fastest, and for two of them, outputs."""
DIRECT_OUTPUTS = {8: 6000, 16: 6000, 64: 2500}
"""Rows → outputs up to which `direct_product` is; beyond 16 rows with a norm alone, and beyond 8 not of NF4."""
DIRECT_INPUTS = {True: 1024, False: 1536}
"""Inputs up to which it is, with a norm and without."""
FEW_INPUTS = 2048
"""Inputs up to which `few_product` takes two rows."""
SUMS = 4 << 10
"""Bytes of shared memory for what programs sum up in it, about."""
STORED = {FLOAT: 1.0, INT8: 1.0, NF4: 0.5}
"""Bytes of a weight; of FLOAT, those of an input."""


@dataclass(frozen=True)
class Tiles:
    """How a kernel divides a product: rows and outputs of a tile; its inputs, `splits` times `k`, each split's summed
    by warps of its own; warps; and the tiles that it loads at a time.

    With 0 stages all tiles are loaded at once, by `direct_product`, for whose gate there are as many outputs again.
    With 0 splits it is `few_product` that works on `k` inputs at a time.
    """

    m: int
    n: int
    k: int
    splits: int
    warps: int
    stages: int = 1

    @property
    def direct(self) -> bool:
        """Whether the kernel is `direct_product`."""
        return self.stages == 0

    def pieces(self, inputs: int) -> int:
        """Return the tiles that these inputs take."""
        return int(triton.cdiv(inputs, self.k * max(self.splits, 1)))


def tiles(rows: int, outputs: int, inputs: int, kind: int, norm: bool, itemsize: int) -> Tiles:
    """Return the division for a product.

    Args:
        rows: of the inputs.
        outputs: of all matrices together.
        inputs: of a row.
        kind: of the matrices.
        norm: whether the inputs are normed.
        itemsize: bytes of an input.
    """
    if rows == 1 or (rows <= FEW_ROWS and outputs <= FEW_OUTPUTS and inputs <= FEW_INPUTS):
        return _few(rows, outputs, inputs)
    if itemsize == 2 and _is_direct(rows, outputs, inputs, kind, norm):  # tensor cores multiply 16-bit numbers
        return _direct(rows, inputs, kind, norm)
    if kind == NF4:
        tile = _nf4(rows, outputs, inputs)
    else:
        tile = _up_to_eight(outputs, inputs, norm) if rows <= 8 else _more(rows, outputs, inputs)
    return _fitting(tile, kind, itemsize)


def shared_memory() -> int:
    """Return the bytes of shared memory that a program may have on the current device; an H200's without one."""
    return _shared_memory(torch.cuda.current_device()) if torch.cuda.is_available() else 227 << 10


@cache
def _shared_memory(device: int) -> int:
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 99 << 10))  # torch's types do not have it


def _few(rows: int, outputs: int, inputs: int) -> Tiles:
    if inputs > 1024 and (inputs <= 2048 or inputs % 2048 == 0):
        return Tiles(rows, 4, 2048, splits=0, warps=8)
    k = min(max(triton.next_power_of_2(inputs), 256), 1024)  # a thread takes 8 inputs
    return Tiles(rows, 8 if outputs > 2500 else 4, k, splits=0, warps=k // 256)


def _is_direct(rows: int, outputs: int, inputs: int, kind: int, norm: bool) -> bool:
    group = next((most for most in DIRECT_OUTPUTS if rows <= most), 0)
    if not group or (group > 8 and kind == NF4) or (group > 16 and not norm):
        return False
    return outputs <= DIRECT_OUTPUTS[group] and inputs <= DIRECT_INPUTS[norm]


def _direct(rows: int, inputs: int, kind: int, norm: bool) -> Tiles:
    m, long = 8 if rows <= 8 else 16, inputs > 1024
    n, k = 8 if m == 16 and long else 16, NF4_BLOCK if long or kind == NF4 else 32
    warps = 4 if norm and inputs <= 640 else 8  # more inputs to a thread would not find room in its registers
    return Tiles(m, n, k, splits=warps, warps=warps, stages=0)


def _nf4(rows: int, outputs: int, inputs: int) -> Tiles:
    """A part of the inputs for each block: their scales scale its sum."""
    if rows <= 8:
        n = 64 if outputs > 6000 else 16
        return Tiles(8, n, NF4_BLOCK, splits=8 if inputs > 1024 else 4, warps=4, stages=3)
    small = rows <= 16 or (inputs <= 2048 and rows <= 64)
    return Tiles(16 if small else 64, 32, NF4_BLOCK, splits=4, warps=4, stages=3)


def _up_to_eight(outputs: int, inputs: int, norm: bool) -> Tiles:
    if outputs > 6000:
        return Tiles(8, 64, 64, splits=1, warps=4, stages=3 if inputs <= 1024 else 6)
    k = 64 if norm or inputs <= 1024 else 128
    return Tiles(8, 32 if norm and outputs > 2500 else 16, k, splits=4, warps=4, stages=4)


def _more(rows: int, outputs: int, inputs: int) -> Tiles:
    many = outputs > (2500 if inputs <= 1024 else 5500)
    if rows > 128:
        if many:
            return Tiles(64, 128, 64, splits=1, warps=8, stages=3)
        return Tiles(32 if inputs <= 2048 else 64, 64, 128, splits=1, warps=4, stages=3)
    if many:
        m = 16 if rows <= 16 else 32 if inputs <= 1024 else 64
        return Tiles(m, 64, 64, splits=1, warps=4, stages=4)
    if rows <= 16 or inputs <= 2048:
        return Tiles(16, 16, 128, splits=4, warps=4, stages=3)
    return Tiles(32, 32, 64, splits=4, warps=4, stages=3)


def _fitting(tile: Tiles, kind: int, itemsize: int) -> Tiles:
    """Return the tile with fewer stages, then rows, then outputs, where there is too little shared memory for it."""
    while _taken(tile, kind, itemsize) > shared_memory():
        if tile.stages > 2:
            tile = replace(tile, stages=tile.stages - 1)
        elif tile.m > 8:
            tile = replace(tile, m=tile.m // 2)
        elif tile.n > 16:
            tile = replace(tile, n=tile.n // 2)
        else:
            break
    return tile


def _taken(tile: Tiles, kind: int, itemsize: int) -> float:
    """Return the bytes of shared memory that a program takes: what is loaded, and a tile as it is multiplied."""
    inputs = tile.k * tile.splits
    loaded = inputs * (tile.n * STORED[kind] * (itemsize if kind == FLOAT else 1) + tile.m * itemsize)
    multiplied = inputs * (tile.n + tile.m) * itemsize
    return (tile.stages - 1) * loaded + multiplied + SUMS
