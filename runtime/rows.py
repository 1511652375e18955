"""A JSON file of measured rows, each kept as soon as it is there."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import SpeckvError
from runtime.files import parse_object, read_within, replacing_file

LARGEST = 64 << 20
"""Bytes of a file of rows."""
ADVICE = "give another --output"


class RowsFile:
    """`{"kind": …, "rows": [...]}`: a new row takes the place of the one that says the same of its `names`.

    An unfinished row (`"complete": false`) never takes the place of a finished one: it stands beside it until a
    finished one takes the place of both. The file is whole at all times; behind a link, it is the file that is written.

    Args:
        path: of the file, which need not exist.
        kind: of its rows: what wrote them.
        names: fields that tell rows apart.

    Raises:
        SpeckvError: if the path holds something else, or nothing can be written there.
    """

    def __init__(self, path: Path, kind: str, names: Sequence[str]) -> None:
        self.path, self.kind, self.names = path, kind, tuple(names)
        self._file = path.resolve()
        self._read()
        with self._refused():  # now, before anything is measured
            tempfile.TemporaryFile(dir=self._file.parent).close()

    def put(self, row: Mapping[str, Any]) -> None:
        """Keep a row beside those that are in the file by now, and write it.

        Raises:
            SpeckvError: if that fails; the file is as it was.
        """
        new = json.loads(json.dumps(row))
        rows = [*(old for old in self._read() if not self._replaces(new, old)), new]
        with self._refused(), replacing_file(self._file) as unfinished:
            unfinished.write_text(json.dumps({"kind": self.kind, "rows": rows}) + "\n", encoding="utf-8")

    def _read(self) -> list[dict[str, Any]]:
        return read_rows(self.path, self.kind) if self._file.exists() else []

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpeckvError(f"{self.path} cannot be written ({error.strerror or error}): {ADVICE}") from None

    def _replaces(self, new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
        same = all(new.get(name) == old.get(name) for name in self.names)
        return same and (new.get("complete", True) or not old.get("complete", True))


def read_rows(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the rows of a file of one kind.

    Raises:
        SpeckvError: if it cannot be read, or holds something else, whatever stands beside the rows.
    """
    content = parse_object(path, read_within(path, LARGEST, ADVICE), ADVICE)
    rows = content.get("rows")
    if (
        content.keys() != {"kind", "rows"}
        or not isinstance(rows, list)
        or not all(isinstance(row, dict) for row in rows)
    ):
        raise SpeckvError(f"{path} holds something else than rows of measurements: {ADVICE}")
    if content["kind"] != kind:
        raise SpeckvError(f"{path} holds rows of '{content['kind']}', not of '{kind}': {ADVICE}")
    return rows
