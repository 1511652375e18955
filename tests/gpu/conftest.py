"""Tests that need a CUDA device; without one they are skipped, with the reason."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = f"torch {torch.__version__} finds no CUDA device"
    for item in items:
        if "tests/gpu" in item.nodeid:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason=reason))
