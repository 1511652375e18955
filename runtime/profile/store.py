"""The profile's folder: finished parts as files of their own, merged into the final files at the end."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SpeckvError
from runtime.files import check_format, read_object, replacing_file
from runtime.npz import read_npz

MANIFEST = "manifest.json"
STEP_TIMES = "step_times_ms.json"
RECORDS = "records.csv"
FORMAT_VERSION = 2
"""1 knew nothing of second choices."""
UNFINISHED = re.compile(r"\..+\.(npz|json|csv)\.[0-9]+")
"""Names of files that are being written: see `replacing_file`."""
LARGEST_PART = 1 << 30
"""Bytes of its arrays, which are those of 16 prompts."""


def check_profile(file: Path) -> None:
    """Refuse a file of a profile that a newer release wrote; one that lies in no profile is taken as it is.

    Raises:
        SpeckvError: saying what to do.
    """
    try:
        manifest = read_object(file.with_name(MANIFEST), "")
    except SpeckvError:  # none, or something else of that name
        return
    if {"draft", "target", "format_version"} <= manifest.keys():
        check_format(file.with_name(MANIFEST), manifest["format_version"], FORMAT_VERSION)


class Store:
    """An output folder that can be continued.

    A part is the traces of a few prompts in one precision; it appears under its name only when it is whole, so an
    interruption loses at most the part under way.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the manifest, or check that the folder was begun with the same settings.

        Raises:
            SpeckvError: if the folder holds something else, or a profile with other settings.
        """
        path = self.folder / MANIFEST
        wanted = json.loads(json.dumps({"format_version": FORMAT_VERSION, **settings}))
        if not path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise SpeckvError(f"{self.folder} is not empty and holds no profile: give another --output")
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write(MANIFEST, _json(wanted))
            return
        begun = self.read_json(MANIFEST)
        check_format(path, begun.get("format_version", 1), FORMAT_VERSION)
        for key in sorted(begun.keys() | wanted.keys()):
            if begun.get(key) != wanted.get(key):
                raise SpeckvError(
                    f"{path} was begun with {key} {json.dumps(begun.get(key))}, not {json.dumps(wanted.get(key))}: "
                    "give another --output, or the same settings to continue it"
                )
        self._sweep()  # not before it is known to be this profile

    def _sweep(self) -> None:
        """Remove what a run that was killed had begun to write; of several processes, one does it before they write."""
        for path in [*self.folder.glob(".*"), *self.folder.glob("parts/*/.*")]:
            if UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def part(self, precision: str, number: int) -> Path:
        """Return the file of one part."""
        return self.folder / "parts" / precision / f"{number:04d}.npz"

    def write_part(self, precision: str, number: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a finished part."""
        path = self.part(precision, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write(path.relative_to(self.folder), npz(arrays))

    def read_parts(self, precision: str, parts: int) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the named arrays of all parts of a precision, in order.

        Raises:
            SpeckvError: naming the part that is damaged.
        """
        for number in range(parts):
            yield from read_npz(self.part(precision, number), LARGEST_PART, "remove it and profile again").items()

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the folder's JSON files.

        Raises:
            SpeckvError: if it is damaged.
        """
        return read_object(self.folder / name, "remove it, or give another --output")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files."""
        self.write(name, _json(content))

    def write(self, name: str | Path, data: bytes) -> None:
        """Write a file so that it is whole or not there."""
        path = self.folder / name
        with replacing_file(path) as unfinished:
            unfinished.write_bytes(data)


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an npz file of the arrays, compressed; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            # A ZipInfo without a date: numpy's own writer takes the clock's in some releases.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def digest(texts: Iterable[str]) -> str:
    """Return the sha256 of a sequence of texts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
