"""A package's folder: what may be replaced, and replacing it in one step."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.contract import MANIFEST_FILE
from runtime.errors import SpeckvError
from runtime.manifest import read_manifest

REQUIREMENTS_FILE = "requirements.txt"
CARD_FILE = "README.md"
LICENSE_FILE = "LICENSE"

LEFTOVER_SECONDS = 3600.0
"""A temporary folder older than this belongs to an export that was killed."""


def check_destination(folder: Path, package: str, files: Collection[str]) -> None:
    """Raise SpeckvError unless `folder` is absent, empty, or holds the manifest and the files of such a package, in a
    place that can be written: better now than after a long fit.

    Args:
        folder: to be written or replaced.
        package: name of the package, as its manifest gives it.
        files: all that such a package holds; anything else is somebody's own, whatever the manifest says.
    """
    place = next((parent for parent in folder.parents if os.access(parent, os.F_OK)), folder)  # which never raises
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise SpeckvError(f"cannot write {folder}: {place} is no folder that may be written; give another --output")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SpeckvError(f"{folder} is a file: give --output a folder")
    names = sorted(entry.name for entry in folder.iterdir())
    listed = _listed_files(folder, package, files)
    if names and listed is None:
        raise SpeckvError(
            f"{folder} holds '{names[0]}' but is not a {package} package (no {MANIFEST_FILE} of one): "
            "give another folder"
        )
    foreign = [name for name in names if listed is not None and name not in listed]
    if foreign:
        raise SpeckvError(
            f"{folder} holds '{foreign[0]}', which is not part of a {package} package: give another folder"
        )


@contextmanager
def replacing(folder: Path, package: str, files: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes the place of `folder`, on failure it goes.

    Whoever looks at `folder` sees the old package whole or the new one whole, whenever the process ends. What may be
    replaced is looked at once more at the end, since much may have been put there meanwhile: see `check_destination`.

    Raises:
        SpeckvError: if a folder cannot be made or renamed there.
    """
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recover(folder)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        yield staging
        check_destination(folder, package, files)
        _swap(staging, folder)
    except OSError as error:
        raise SpeckvError(f"cannot write {folder}: {error.strerror or error}; the old package is untouched") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _listed_files(folder: Path, package: str, files: Collection[str]) -> set[str] | None:
    """Return which of `files` the manifest in `folder` lists, itself included; None without one of this package."""
    try:
        manifest = read_manifest(folder)
    except SpeckvError:
        return None
    return {MANIFEST_FILE, *manifest.hashes} & set(files) if manifest.package == package else None


def _swap(staging: Path, folder: Path) -> None:
    if not folder.exists():
        staging.rename(folder)
    elif not _exchange(staging, folder):
        # Without an exchange call there is an instant between two renames; `_recover` repairs a process killed in it.
        previous = _previous(folder)
        folder.rename(previous)
        try:
            staging.rename(folder)
        except BaseException:
            previous.rename(folder)
            raise
        shutil.rmtree(previous)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one system call (Linux `renameat2`); False where that is not to be had."""
    if sys.platform != "linux":
        return False
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    working_directory, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    paths = working_directory, os.fsencode(first), working_directory, os.fsencode(second)
    return call is not None and not call(*paths, exchange)


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _recover(folder: Path) -> None:
    """Undo or finish what a killed export left behind."""
    previous = _previous(folder)
    if previous.exists() and not folder.exists():
        previous.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
    for leftover in folder.parent.glob(f".{folder.name}.*.new"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
