"""Nothing is used that the manifest does not vouch for, and no manifest, however made, does anything but be refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from export.manifest import manifest
from runtime import GammaSelector, SpeckvError
from runtime.artifacts import MODELS, package_folder
from runtime.contract import DECISION_FILE, MANIFEST_FILE, STOPPER_NAME
from runtime.manifest import read_files, read_manifest
from runtime.stopper.stopper import Stopper

GRAPH = (package_folder() / DECISION_FILE).read_bytes()
SHIPPED = sorted(folder.name for folder in MODELS.iterdir())
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
ESCAPES = ("../x", "..", ".", "", "/etc/hosts", "a/b", "a\\b", "C:x", "C:\\x", "\\\\host\\share\\x", "x\0", "x\n", "a/")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return shutil.copytree(package_folder(), tmp_path / "package")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that every example of a property rewrites."""
    return shutil.copytree(package_folder(), tmp_path_factory.mktemp("scratch") / "package")


def entries() -> Any:
    return json.loads((package_folder() / MANIFEST_FILE).read_text())


def refusal(package: Path) -> str:
    """Return why the package is refused, in one line."""
    with pytest.raises(SpeckvError) as caught:
        GammaSelector(package)
    text = str(caught.value)
    assert text.isprintable()  # one line, whatever the manifest holds
    return text


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_is_listed_and_intact(name: str) -> None:
    folder = MODELS / name
    files = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST_FILE)
    assert sorted(read_manifest(folder).hashes) == files
    assert read_files(folder, *files) == [(folder / file).read_bytes() for file in files]


def test_a_changed_a_missing_and_an_unlisted_file_are_named(package: Path) -> None:
    (package / DECISION_FILE).write_bytes(GRAPH[:-1] + b"!")
    assert refusal(package).startswith(f"{package / DECISION_FILE} differs from its sha256")
    (package / DECISION_FILE).unlink()
    assert refusal(package).startswith(f"{package / DECISION_FILE}: no such file")
    with pytest.raises(SpeckvError, match=r"'speckv-mlp16', does not list speckv_stopper\.onnx"):
        Stopper(package)
    with pytest.raises(SpeckvError, match=r"no package folder .*nowhere"):
        Stopper(package / "nowhere")
    (package / DECISION_FILE).mkdir()
    assert "is not a file" in refusal(package)


def test_a_pointer_of_git_lfs_is_told_apart(package: Path) -> None:
    (package / DECISION_FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3048\n")
    assert "git lfs pull" in refusal(package)


def test_files_that_are_not_used_are_not_looked_at(package: Path) -> None:
    for path in package.iterdir():
        if path.name not in (MANIFEST_FILE, DECISION_FILE):
            path.unlink()
    (package / "README.md").write_text("a card that somebody edited")
    assert GammaSelector(package).select((0.9, 0.8, 1.7, 0.5), "fp16").gamma in (2, 4, 6, 8)


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_is_a_path_is_refused(package: Path, name: str) -> None:
    described = entries()
    described["files"][name] = described["files"][DECISION_FILE]
    (package / MANIFEST_FILE).write_text(json.dumps(described))
    assert "not a plain file name" in refusal(package)


@pytest.mark.parametrize("found", ["2", "10", "01.5", "", "-1", "²", "9" * 5000, 1, None, True, ["1"], {}])
def test_a_format_that_this_release_does_not_know_is_refused(package: Path, found: object) -> None:
    (package / MANIFEST_FILE).write_text(json.dumps({**entries(), "speckv_format": found, "files": "elsewhere"}))
    assert "this release reads up to 1: `pip install --upgrade speckv`" in refusal(package)


@pytest.mark.parametrize("found", ["0", "1", None])
def test_this_format_and_older_ones_are_read(package: Path, found: str | None) -> None:
    described = {key: value for key, value in entries().items() if key != "speckv_format"}
    if found != "1":  # the first packages gave the hash alone
        described["files"] = {name: entry["sha256"] for name, entry in described["files"].items()}
    (package / MANIFEST_FILE).write_text(json.dumps({**described, **({"speckv_format": found} if found else {})}))
    assert read_files(package, DECISION_FILE) == [GRAPH]


def test_links_out_of_the_package_are_refused_and_links_within_are_not(package: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.onnx"
    (package / DECISION_FILE).rename(outside)
    (package / DECISION_FILE).symlink_to(outside)
    assert f"{DECISION_FILE} is a link out of the package" in refusal(package)
    (package / DECISION_FILE).unlink()
    (package / "inner").mkdir()
    outside.rename(package / "inner" / "graph")
    (package / DECISION_FILE).symlink_to(Path("inner", "graph"))
    assert read_files(package, DECISION_FILE) == [GRAPH]
    linked = tmp_path / "linked"
    linked.symlink_to(package)
    assert read_files(linked, DECISION_FILE) == [GRAPH]
    (package / MANIFEST_FILE).rename(tmp_path / MANIFEST_FILE)
    (package / MANIFEST_FILE).symlink_to(tmp_path / MANIFEST_FILE)
    assert f"{MANIFEST_FILE} is a link out of the package" in refusal(package)


def test_a_loop_of_links_is_refused(package: Path) -> None:
    (package / DECISION_FILE).unlink()
    (package / DECISION_FILE).symlink_to(DECISION_FILE)
    assert "cannot be read" in refusal(package)


def test_an_installer_may_link_what_ships(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / DECISION_FILE).rename(tmp_path / "stored")
    (package / DECISION_FILE).symlink_to(tmp_path / "stored")
    monkeypatch.setattr("runtime.manifest.MODELS", package.parent)
    assert read_files(package, DECISION_FILE) == [GRAPH]


@given(JSON, JSON)
@example({DECISION_FILE: {"sha256": "\n"}}, "1")
@example({DECISION_FILE: {"sha256": "0" * 64}}, "1")
@example({"\ud800": {"sha256": "0" * 64}}, "1")
def test_any_manifest_is_refused_in_one_line(scratch: Path, files: object, found: object) -> None:
    for value in (files, {"files": files}, {"speckv_format": found, "package": found, "files": files}):
        (scratch / MANIFEST_FILE).write_text(json.dumps(value))
        refusal(scratch)


@given(st.binary())
@example(b"[" * 200_000)
@example(b'{"files": ' + b"1" * 5000 + b"}")
@example(b"\xff\xfe")
@example(b"null")
def test_any_bytes_are_refused_in_one_line(scratch: Path, content: bytes) -> None:
    (scratch / MANIFEST_FILE).write_bytes(content)
    refusal(scratch)


@given(st.text(min_size=1), st.sampled_from(["/", "\\", "\0", ":", "\n"]), st.text(min_size=1))
def test_no_name_with_a_separator_is_accepted(scratch: Path, before: str, separator: str, after: str) -> None:
    name = ("C" if separator == ":" else before) + separator + after
    (scratch / MANIFEST_FILE).write_bytes(json.dumps({"files": {name: "0" * 64}}).encode())
    with pytest.raises(SpeckvError, match="not a plain file name"):
        read_manifest(scratch)


@given(st.integers(0, len(GRAPH) * 8 - 1))
def test_no_flipped_bit_of_a_graph_is_opened(scratch: Path, bit: int) -> None:
    (scratch / MANIFEST_FILE).write_bytes((package_folder() / MANIFEST_FILE).read_bytes())
    flipped = bytearray(GRAPH)
    flipped[bit // 8] ^= 1 << bit % 8
    (scratch / DECISION_FILE).write_bytes(flipped)
    assert "differs from its sha256" in refusal(scratch)


@given(st.data())
def test_a_flipped_bit_of_a_manifest_opens_the_right_graph_or_none(scratch: Path, data: st.DataObject) -> None:
    content = bytearray((package_folder() / MANIFEST_FILE).read_bytes())
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    (scratch / MANIFEST_FILE).write_bytes(content)
    (scratch / DECISION_FILE).write_bytes(GRAPH)
    try:
        opened = read_files(scratch, DECISION_FILE)
    except SpeckvError:
        opened = [GRAPH]
    assert opened == [GRAPH]


def test_what_export_writes_is_what_runtime_reads(tmp_path: Path) -> None:
    files = {"b.bin": b"\0" * 9, "ä.txt": b""}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / MANIFEST_FILE).write_bytes(manifest(STOPPER_NAME, files, {"opset": 17}))
    assert read_manifest(tmp_path).package == STOPPER_NAME
    assert read_files(tmp_path, *files) == list(files.values())
