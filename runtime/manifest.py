"""Reading a package's files: nothing is used before its SHA-256 equals the one in the package's MANIFEST.json."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from runtime.artifacts import MODELS
from runtime.contract import FORMAT_VERSION, MANIFEST_FILE
from runtime.errors import SpeckvError
from runtime.files import SMALL, parse_object, read_within

AGAIN = "fetch or export the package again"
LFS_POINTER = b"version https://git-lfs.github.com/"
SHA256_DIGITS = 64
LARGEST = {".onnx": 16 << 20, ".npz": 16 << 20, ".safetensors": 64 << 30}
"""Bytes by kind of file; any other is small."""


class Manifest(NamedTuple):
    """What a package says of itself."""

    package: str | None
    """Its name; None in format 0, that of the first drafters."""
    hashes: dict[str, str]
    """SHA-256 of its files by name, in lower-case hexadecimal."""


def read_files(folder: Path, *names: str) -> list[bytes]:
    """Return the contents of these files of a package, each equal to its SHA-256 in the manifest.

    Raises:
        SpeckvError: naming the file that is missing, not listed, outside of the folder, or another than was packed;
            or the manifest, as `read_manifest` does.
    """
    manifest = read_manifest(folder)
    return [_checked(folder, name, manifest) for name in names]


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the package in `folder`.

    Raises:
        SpeckvError: if there is none, it names a path instead of a file, or it has a newer format than this release.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise SpeckvError(f"no package folder {folder}: give the folder of an exported package, or reinstall speckv")
    value = parse_object(path, _read(folder, MANIFEST_FILE), AGAIN)
    _check_format(path, value.get("speckv_format", "0"))
    package, entries = value.get("package"), value.get("files")
    if not isinstance(entries, dict) or not isinstance(package, str | None):
        raise SpeckvError(f"{path} is not a package's manifest (no files, or no name): {AGAIN}")
    return Manifest(package, {_file_name(path, name): _digest(path, name, entry) for name, entry in entries.items()})


def _check_format(path: Path, found: object) -> None:
    number = isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) < 10
    if not number or int(str(found)) > int(FORMAT_VERSION):
        raise SpeckvError(
            f"{path}: speckv_format is {_shown(found)}, this release reads up to {FORMAT_VERSION}: "
            "`pip install --upgrade speckv`"
        )


def _file_name(path: Path, name: str) -> str:
    plain = name == PurePosixPath(name).name == PureWindowsPath(name).name and name not in ("", "..")
    if not plain or not name.isprintable():
        raise SpeckvError(f"{path} lists {_shown(name)}, which is not a plain file name: do not use this package")
    return name


def _digest(path: Path, name: str, entry: object) -> str:
    digest = entry.get("sha256") if isinstance(entry, dict) else entry  # format 0 has the digest alone
    if not isinstance(digest, str) or len(digest) != SHA256_DIGITS:
        raise SpeckvError(f"{path} has no sha256 of {_shown(name)}: {AGAIN}")
    return digest


def _checked(folder: Path, name: str, manifest: Manifest) -> bytes:
    if name not in manifest.hashes:
        raise SpeckvError(f"{folder / MANIFEST_FILE}, of package {_shown(manifest.package)}, does not list {name}: "
                          "give the package that holds it")  # fmt: skip
    data = _read(folder, name)
    if data.startswith(LFS_POINTER):
        raise SpeckvError(f"{folder / name} is only a pointer to the file: run `git lfs pull` there")
    if _sha256()(data).hexdigest() != manifest.hashes[name]:
        raise SpeckvError(f"{folder / name} differs from its sha256 in {MANIFEST_FILE}: {AGAIN}")
    return data


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        real = path.resolve(strict=True)
        if not _belongs(real, folder):
            raise SpeckvError(f"{path} is a link out of the package: do not use this package")
        if not real.is_file():
            raise SpeckvError(f"{path} is not a file: {AGAIN}")
        return read_within(real, LARGEST.get(path.suffix, SMALL), AGAIN)
    except FileNotFoundError:
        raise SpeckvError(f"{path}: no such file: {AGAIN}") from None
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise SpeckvError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): {AGAIN}") from None


def _belongs(real: Path, folder: Path) -> bool:
    """Whether the file `real` lies in `folder`, or where whoever laid out `folder` keeps its files."""
    home = folder.resolve()
    if home in real.parents:
        return True
    # huggingface_hub's cache: REPOSITORY/snapshots/COMMIT/NAME is a link to a blob of the repository or of the cache.
    if home.parent.name == "snapshots" and {store / "blobs" for store in home.parents[1:3]} & set(real.parents):
        return True
    return folder.parent == MODELS  # some installers link every file of a wheel into their own store


def _sha256() -> Callable[[bytes], Any]:
    # hashlib loads OpenSSL, 4 MB of the 55 MB that a deciding process takes; `random` of the standard library avoids
    # it in the same way. `_sha2` is there since Python 3.12, `_sha256` before.
    for module in ("_sha2", "_sha256"):
        try:
            return import_module(module).sha256  # type: ignore[no-any-return]
        except ImportError:
            continue
    return import_module("hashlib").sha256  # type: ignore[no-any-return]


def _shown(value: object) -> str:
    # What a file nests may be nested too deeply to be shown.
    return f"{value!r:.60}" if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
