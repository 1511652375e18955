"""A JSON file of measured rows, each kept as soon as it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import SpeckvError
from runtime.files import parse_object, read_within

LARGEST = 64 << 20
"""Bytes of a file of rows."""
ADVICE = "give another --output"


class RowsFile:
    """`{"rows": [...]}`: a new row takes the place of the one that says the same of its `names`.

    An unfinished row (`"complete": false`) never takes the place of a finished one: it stands beside it until a
    finished one takes the place of both. The file is whole at all times.

    Args:
        path: of the file, which need not exist.
        names: fields that tell rows apart.

    Raises:
        SpeckvError: if the path holds something else, or nothing can be written there.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, tuple(names)
        self.rows = read_rows(path) if path.exists() else []
        if not path.parent.is_dir():
            raise SpeckvError(f"{path.parent} is no folder: make it, or {ADVICE}")

    def put(self, row: Mapping[str, Any]) -> None:
        """Keep a row, and write the file."""
        new = json.loads(json.dumps(row))
        self.rows = [old for old in self.rows if not self._replaces(new, old)]
        self.rows.append(new)
        unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            unfinished.write_text(json.dumps({"rows": self.rows}) + "\n", encoding="utf-8")
            unfinished.replace(self.path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _replaces(self, new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
        same = all(new.get(name) == old.get(name) for name in self.names)
        return same and (new.get("complete", True) or not old.get("complete", True))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file.

    Raises:
        SpeckvError: if it cannot be read, or holds something else.
    """
    rows = parse_object(path, read_within(path, LARGEST, ADVICE), ADVICE).get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SpeckvError(f"{path} holds no rows of measurements: {ADVICE}")
    return rows
