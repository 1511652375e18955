"""Where a comparison ran: device, threads, load, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from runtime.machine import device_name

PACKAGES = ("speckv", "torch", "transformers", "onnxruntime", "onnxruntime-gpu", "bitsandbytes", "flashspec")
ROOT = Path(__file__).resolve().parent.parent.parent


def environment(device: str) -> dict[str, object]:
    """Return what the figures depend on besides the pair, as it is now."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "load_average": load_average(),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": commit(),
    }


def load_average() -> float | None:
    """Return how many processes wanted to run in the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def commit(root: Path = ROOT) -> str | None:
    """Return the commit of a checkout, with "-dirty" where files differ from it; None outside of one."""
    if not (root / ".git").exists():  # an installed package may lie within some other checkout
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # nosec B603
    except (OSError, subprocess.CalledProcessError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
