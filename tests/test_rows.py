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
    RowsFile(path, "test", NAMES).put(row("fp16", 1))
    file = RowsFile(path, "test", NAMES)  # another run, later
    file.put(row("int8", 2))
    file.put(row("fp16", 3, device="cuda"))
    file.put(row("fp16", 4))
    assert read_rows(path, "test") == [row("int8", 2), row("fp16", 3, device="cuda"), row("fp16", 4)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.json"]


def test_an_unfinished_row_stands_beside_the_finished_one_until_it_is_finished(tmp_path: Path) -> None:
    file = RowsFile(tmp_path / "rows.json", "test", NAMES)
    file.put(row("fp16", 1, complete=True))
    file.put(row("fp16", 2, complete=False))
    file.put(row("fp16", 3, complete=False))
    assert [kept["value"] for kept in read_rows(file.path, "test")] == [1, 3]
    file.put(row("fp16", 4, complete=True))
    assert [kept["value"] for kept in read_rows(file.path, "test")] == [4]


def test_a_row_that_cannot_be_written_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RowsFile(tmp_path / "rows.json", "test", NAMES)
    file.put(row("fp16", 1))
    before = file.path.read_bytes()

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SpeckvError, match=r"rows\.json cannot be written .No space"):
        file.put(row("fp16", 2))
    assert file.path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.json"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{}", b'{"rows": {}}', b'{"kind": "test", "rows": [1]}', b'{"rows": []}'),
        *(b'{"kind": "test", "rows": [], "note": "my thesis"}', b'{"kind": "other", "rows": []}'),
        *(b"\xff", b"[" * 10_000, b"my thesis"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(SpeckvError, match="give another --output"):
        RowsFile(path, "test", NAMES)
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SpeckvError, match="cannot be written"):
        RowsFile(tmp_path / "none" / "rows.json", "test", NAMES)
    with pytest.raises(SpeckvError, match="cannot be read"):
        RowsFile(tmp_path, "test", NAMES)


def test_rows_are_json(tmp_path: Path) -> None:
    file = RowsFile(tmp_path / "rows.json", "test", NAMES)
    file.put({"device": "cpu", "precision": "fp16", "times": {1: 2.5}})
    assert json.loads(file.path.read_text())["rows"][0]["times"] == {"1": 2.5}


def test_two_runs_share_a_file_and_a_link_to_it(tmp_path: Path) -> None:
    path, link = tmp_path / "rows.json", tmp_path / "link.json"
    link.symlink_to(path)
    one, other = RowsFile(path, "test", NAMES), RowsFile(link, "test", NAMES)
    one.put(row("fp16", 1))
    other.put(row("int8", 2))
    one.put(row("nf4", 3))
    assert [kept["value"] for kept in read_rows(path, "test")] == [1, 2, 3]
    assert link.is_symlink()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_place_that_takes_no_file_is_said_before_anything_is_measured() -> None:
    with pytest.raises(SpeckvError, match=r"/proc/rows\.json cannot be written"):
        RowsFile(Path("/proc/rows.json"), "test", NAMES)
