"""Whether memory stays flat while something goes on for long."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

STATM = Path("/proc/self/statm")
PAGE = 4096
"""Bytes; larger pages elsewhere only make what is measured smaller."""


class Growth(NamedTuple):
    """Bytes more at the end than after the warm-up."""

    resident: int
    """Of the process, all of its libraries included."""
    traced: int
    """Of Python's own objects, over the last part."""


def resident_bytes() -> int:
    gc.collect()
    return int(STATM.read_text().split()[1]) * PAGE


def growth(work: Callable[[int], None], amount: int) -> Growth:
    """Do a tenth of the work to warm up, then all of it, then a tenth under tracemalloc."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    warm_up = max(1, amount // 10)
    work(warm_up)
    before = resident_bytes()
    work(amount)
    resident = resident_bytes() - before
    tracemalloc.start()
    try:
        work(warm_up)  # what the tracing itself keeps
        gc.collect()
        traced_before = tracemalloc.get_traced_memory()[0]
        work(warm_up)
        gc.collect()
        traced = tracemalloc.get_traced_memory()[0] - traced_before
    finally:
        tracemalloc.stop()
    grown = Growth(resident, traced)
    print(f"after {amount:,}: {grown}")  # shown by `make test-long`
    return grown
