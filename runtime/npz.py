"""Reading npz files from outside: plain numbers, of the size that is there, and no more of them than asked for.

`numpy.load` takes a header's word for the size of an array, and a zip's for what it unpacks to: a kilobyte can ask for
any memory. Here both are compared with what the file holds before anything is allocated.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SpeckvError
from runtime.files import read_within

NUMBERS = "biuf"
"""Kinds of dtype that are read: no objects, which would be unpickled, no texts, no records."""


def read_npz(path: Path, most: int, advice: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file, read-only, in their order.

    Args:
        path: the file.
        most: bytes that all arrays together may take.
        advice: the next step of the error.

    Raises:
        SpeckvError: naming the file, and the array that is damaged, too large, or of something else than numbers.
    """
    return parse_npz(path, read_within(path, most, advice), most, advice)


def parse_npz(path: Path, data: bytes, most: int, advice: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz that was read from `path`, as `read_npz` does."""
    if data.startswith(np.lib.format.MAGIC_PREFIX):
        raise SpeckvError(f"{path} is a single array, not an npz: {advice}")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # a damaged directory makes zipfile raise anything
        raise SpeckvError(f"{path} cannot be read as an npz ({_reason(error)}): {advice}") from None
    members = archive.infolist()
    if sum(member.file_size for member in members) > most:
        raise SpeckvError(f"{path} unpacks to more than {most / 2**20:g} MB: {advice}")
    arrays: dict[str, NDArray[Any]] = {}
    for member in members:
        key = member.filename.removesuffix(".npy")
        if key in arrays:
            raise SpeckvError(f"{path}: '{key}' is there twice: {advice}")
        try:
            with archive.open(member) as file:
                arrays[key] = _array(file, member.file_size)
        except Exception as error:  # as above, and so does numpy's parser of headers
            raise SpeckvError(f"{path}: '{key}' cannot be read ({_reason(error)}): {advice}") from None
    return arrays


def _array(file: IO[bytes], size: int) -> NDArray[Any]:
    """Read one array, of whose file `size` bytes are announced."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.kind not in NUMBERS:
        raise ValueError(f"an array of {dtype}, not of numbers")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != size - file.tell():
        raise ValueError(f"{list(shape)} of {dtype} take {wanted} bytes, {size - file.tell()} are there")
    content = file.read()
    if len(content) != wanted:
        raise ValueError(f"it ends after {len(content)} of {wanted} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
