"""What was tried, as JSON in build/counts/: one file a suite, for whoever adds them up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "build" / "counts"


def write_counts(suite: str, command: str, tried: Mapping[str, int], failed: int, unit: str = "inputs") -> None:
    """Write `build/counts/SUITE.json`.

    Args:
        suite: name of the suite.
        command: what runs it again.
        tried: part of the suite → how many were tried.
        failed: how many of them failed.
        unit: what is counted.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"suite": suite, "command": command, "unit": unit, "tried": dict(tried), "failed": failed}
    (FOLDER / f"{suite}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
