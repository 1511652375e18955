"""What this machine is called beside what was measured on it."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def device_name(device: str) -> str:
    """Return the name of "cpu", "cuda" or "cuda:N"."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
