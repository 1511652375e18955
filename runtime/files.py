"""Files from outside, read whole within a bound, so that none costs more memory than it is worth; and files written."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import SpeckvError

SMALL = 1 << 20
"""Bytes of the largest file that describes something: a manifest, a configuration, step times."""


def read_within(path: Path, most: int, advice: str) -> bytes:
    """Return the bytes of a file; never more than `most` are read, whatever the file is.

    Args:
        path: the file.
        most: bytes.
        advice: the next step of the error.

    Raises:
        SpeckvError: if it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
            while len(data) <= most and (more := file.read(min(most + 1 - len(data), SMALL))):  # a pipe has no size
                data += more
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise SpeckvError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): {advice}") from None
    if len(data) > most:
        raise SpeckvError(f"{path} is larger than {most / 2**20:g} MB: {advice}")
    return data


def check_writable(folder: Path, advice: str) -> None:
    """Refuse a folder that cannot be made, or written in, before anything is computed for it.

    Args:
        folder: to write in; where it is not there yet, a file is tried in the nearest folder above it.
        advice: the next step of the error.

    Raises:
        SpeckvError: naming what is in the way.
    """
    place = folder
    while not os.path.lexists(place):
        place = place.parent
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise SpeckvError(f"nothing can be written in {folder} ({place}: {error.strerror}): {advice}") from None


@contextlib.contextmanager
def replacing_file(path: Path, unfinished: str | None = None) -> Iterator[Path]:
    """Yield a path beside `path` to write to; that file then takes the place of `path`, or, on an error, goes.

    Args:
        path: of the file to write.
        unfinished: name of the file until then; by default a hidden one of this process alone.

    Raises:
        OSError: naming `path`; one that comes from writing names no file.
    """
    beside = path.with_name(unfinished or f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        if error.filename in (None, str(beside)):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """Return the JSON object that a file holds, of at most 1 MB.

    Raises:
        SpeckvError: if it cannot be read, or holds something else.
    """
    return parse_object(path, read_within(path, SMALL, advice), advice)


def check_format(path: Path, found: object, newest: int) -> None:
    """Refuse a file of a format that is newer than this release, or none.

    Args:
        path: the file.
        found: what it says of its format; formats are 1, 2, 3, …
        newest: the newest format that this release reads. It reads all older ones.

    Raises:
        SpeckvError: saying which it is.
    """
    if type(found) is not int or not 1 <= found <= newest:
        shown = f"{found!s:.20}" if isinstance(found, str | int | None) else f"a {type(found).__name__}"
        raise SpeckvError(
            f"{path}: format_version {shown}, this release reads 1 to {newest}: `pip install --upgrade speckv`"
        )


def parse_object(path: Path, data: bytes, advice: str) -> dict[str, Any]:
    """Return the JSON object that was read from `path`.

    Raises:
        SpeckvError: if it is something else.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise SpeckvError(f"{path} is not JSON (nested too deeply): {advice}") from None
    except ValueError as error:
        raise SpeckvError(f"{path} is not JSON ({error}): {advice}") from None
    if not isinstance(value, dict):
        raise SpeckvError(f"{path} is not a JSON object: {advice}")
    return value
