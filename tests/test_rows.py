"""Files of measured rows: merged, whole at all times, and never a finished row lost to an unfinished one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import SpeckvError
from runtime.rows import RowsFile, read_rows

NAMES = ("device", "precision")


def row(precision: str, value: int, device: str = "cpu", **more: object) -> dict[str, object]:
    return {"device": device, "precision": precision, "value": value, **more}


def test_a_row_takes_the_place_of_the_one_with_its_names_and_of_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    RowsFile(path, NAMES).put(row("fp16", 1))
    file = RowsFile(path, NAMES)  # another run, later
    file.put(row("int8", 2))
    file.put(row("fp16", 3, device="cuda"))
    file.put(row("fp16", 4))
    assert read_rows(path) == [row("int8", 2), row("fp16", 3, device="cuda"), row("fp16", 4)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.json"]


def test_an_unfinished_row_stands_beside_the_finished_one_until_it_is_finished(tmp_path: Path) -> None:
    file = RowsFile(tmp_path / "rows.json", NAMES)
    file.put(row("fp16", 1, complete=True))
    file.put(row("fp16", 2, complete=False))
    file.put(row("fp16", 3, complete=False))
    assert [kept["value"] for kept in read_rows(file.path)] == [1, 3]
    file.put(row("fp16", 4, complete=True))
    assert [kept["value"] for kept in read_rows(file.path)] == [4]


def test_a_row_that_cannot_be_written_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RowsFile(tmp_path / "rows.json", NAMES)
    file.put(row("fp16", 1))
    before = file.path.read_bytes()

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        file.put(row("fp16", 2))
    assert file.path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.json"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"rows": {}}', b'{"rows": [1]}', b"\xff", b"[" * 10_000, b"my thesis"]
)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(SpeckvError, match="give another --output"):
        RowsFile(path, NAMES)
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SpeckvError, match="make it"):
        RowsFile(tmp_path / "none" / "rows.json", NAMES)
    with pytest.raises(SpeckvError, match="cannot be read"):
        RowsFile(tmp_path, NAMES)


def test_rows_are_json(tmp_path: Path) -> None:
    file = RowsFile(tmp_path / "rows.json", NAMES)
    file.put({"device": "cpu", "precision": "fp16", "times": {1: 2.5}})
    assert json.loads(file.path.read_text())["rows"][0]["times"] == {"1": 2.5}
