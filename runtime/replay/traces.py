"""Traces as a replay reads them: per position, the draft's rollout and how much of it would be accepted."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SpeckvError
from runtime.policies.policy import TokenSignals

LOOKAHEAD = 16
"""Tokens of a rollout: the longest draft that a replay can follow."""


@dataclass(frozen=True)
class Text:
    """One traced output."""

    key: str
    task: str
    rollouts: list[list[TokenSignals]]
    """Per position, the signals of the 16 tokens that the draft writes from there."""
    accepted: list[int]
    """Per position, how many of them the target accepts, in [0, 16]."""

    @property
    def positions(self) -> int:
        """Tokens that the target wrote."""
        return len(self.accepted)


def read_traces(path: Path) -> list[Text]:
    """Read an npz of arrays `[positions, 16, 4]` (accepted, entropy in bits, top-1, top-2), keyed INDEX_TASK.

    Raises:
        SpeckvError: naming the file, and the array that is not a trace.
    """
    try:
        arrays = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SpeckvError(f"{path}: cannot be read as an npz of traces ({error}): give another file") from None
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise SpeckvError(f"{path} is a single array: give the npz that `runtime profile` writes")
    with arrays:
        texts = [_text(path, key, _array(path, arrays, key)) for key in arrays.files]
    if not texts:
        raise SpeckvError(f"{path} holds no traces: give the npz that `runtime profile` writes")
    return texts


def _array(path: Path, arrays: np.lib.npyio.NpzFile, key: str) -> NDArray[np.float64]:
    try:
        array = arrays[key]
    except (
        OSError,
        ValueError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:  # object arrays among them: nothing is unpickled
        raise SpeckvError(f"{path}: '{key}' cannot be read ({error}): profile again") from None
    if array.ndim != 3 or array.shape[1:] != (LOOKAHEAD, 4) or not len(array) or array.dtype.kind != "f":
        raise SpeckvError(
            f"{path}: '{key}' is {array.dtype} {list(array.shape)}: a trace is floating point [positions, 16, 4]"
        )
    return array.astype(np.float64)


def _text(path: Path, key: str, array: NDArray[np.float64]) -> Text:
    task = key.partition("_")[2]
    if not task:
        raise SpeckvError(f"{path}: '{key}' names no task: the keys of traces are INDEX_TASK")
    if not np.isfinite(array).all():
        raise SpeckvError(f"{path}: '{key}' holds values that are not finite: profile again")
    flags = array[:, :, 0]
    if not np.isin(flags, (0, 1)).all() or (np.diff(flags, axis=1) > 0).any():
        raise SpeckvError(f"{path}: '{key}' has accepted flags that are not ones and then zeros: profile again")
    rollouts = [[TokenSignals(*token) for token in row] for row in array[:, :, 1:].tolist()]
    return Text(key, task, rollouts, flags.sum(axis=1).astype(int).tolist())
