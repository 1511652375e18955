"""The divisions of products: they hold what they must, in the shared memory that there is."""

from __future__ import annotations

import pytest

from runtime.cuda import tiles as module
from runtime.cuda.matrix import FLOAT, INT8, NF4
from runtime.cuda.tiles import tiles

INPUTS = (64, 576, 960, 1088, 2048, 3072, 8192)


@pytest.mark.parametrize("shared", [99 << 10, 227 << 10])
@pytest.mark.parametrize("kind", [FLOAT, INT8, NF4])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9, 17, 65, 129])
def test_divisions(rows: int, kind: int, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shared_memory", lambda: shared)
    for inputs in INPUTS:
        for outputs in (100, 2600, 5600, 7000):
            for norm in (False, True):
                for itemsize in (2, 4):
                    tile = tiles(rows, outputs, inputs, kind, norm, itemsize)
                    assert tile.m >= min(rows, 8)
                    if not tile.splits:
                        continue
                    if tile.direct:
                        assert itemsize == 2
                        assert tile.pieces(inputs) * tile.splits * tile.k >= inputs
                        assert tile.k % (64 if kind == NF4 else 32) == 0
                        assert tile.warps == tile.splits
                        # A thread's 32-bit registers, of 255; with a norm there may be a gate, and x is held twice.
                        share = {FLOAT: 1, INT8: 0.5, NF4: 0.25}[kind]
                        held = tile.pieces(inputs) * tile.k / 32 * (tile.n * share + tile.m) / 2 * (2 if norm else 1)
                        assert held <= 160
                        continue
                    assert tile.stages > 1
                    assert tile.k == 64 and tile.splits > 1 if kind == NF4 else tile.k % 16 == 0
                    weight = {FLOAT: itemsize, INT8: 1, NF4: 0.5}[kind]
                    loaded = tile.splits * tile.k * (tile.m * itemsize + tile.n * weight)
                    assert (tile.stages - 1) * loaded <= shared


def test_less_shared_memory_gives_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shared_memory", lambda: 227 << 10)
    most = tiles(300, 8192, 4096, FLOAT, False, 2)
    monkeypatch.setattr(module, "shared_memory", lambda: 48 << 10)
    less = tiles(300, 8192, 4096, FLOAT, False, 2)
    assert less.stages < most.stages or less.m < most.m
