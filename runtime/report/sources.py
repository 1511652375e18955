"""What a report was made from: files by their sha256, versions, and what the model packages say of themselves."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from runtime.artifacts import package_folder
from runtime.contract import CONFIG_FILE, MANIFEST_FILE
from runtime.files import read_object
from runtime.replay.traces import seconds_beside, verified_beside

PACKAGES = ("speckv", "numpy", "onnxruntime", "matplotlib")


@dataclass(frozen=True)
class Input:
    """One file."""

    name: str
    """Without its folder."""
    bytes: int
    sha256: str


def read_inputs(traces: Iterable[Path], step_times: Path, models: Path) -> list[Input]:
    """Return every file that the report depends on, among them what lies beside traces and the packages' manifests.

    A manifest has the sha256 of every file of its package, the config.json and the models that policies run.
    """
    of_traces = [file for path in traces for file in (path, verified_beside(path), seconds_beside(path))]
    files = [file for file in (*of_traces, step_times) if file.exists()]
    of_packages = [(file, f"{file.parent.name}/{file.name}") for file in sorted(models.glob(f"*/{MANIFEST_FILE}"))]
    return [_input(file, name) for file, name in [*((file, file.name) for file in files), *of_packages]]


def predictor_evaluation() -> dict[str, Any]:
    """Return `performance` of the predictor's config.json; empty where it was not fitted on the published records."""
    config = read_config(package_folder() / CONFIG_FILE)
    published = (config.get("training") or {}).get("published_records")
    return (config.get("performance") or {}) if published else {}


def read_config(path: Path) -> dict[str, Any]:
    """Read the config.json of a model package.

    Raises:
        SpeckvError: if it is damaged.
    """
    return read_object(path, "export the package again")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a report is made with."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a clone, or another build of the same package
            continue
    return found


def _input(path: Path, name: str) -> Input:
    data = path.read_bytes()
    return Input(name, len(data), hashlib.sha256(data).hexdigest())
