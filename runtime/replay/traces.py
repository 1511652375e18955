"""Traces as a replay reads them: per position, the draft's rollout and how much of it would be accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.contract import MAX_ENTROPY_BITS
from runtime.errors import SpeckvError
from runtime.npz import read_npz
from runtime.policies.policy import TokenSignals
from runtime.profile.store import check_profile
from runtime.prompts import check_task

LOOKAHEAD = 16
"""Tokens of a rollout: the longest draft that a replay can follow."""

LARGEST = 128 << 20
"""Bytes of a file's arrays: a million positions in half precision."""

ROUNDING = 1e-2
"""How far half precision may carry a value beyond its bounds."""

GIVE = "give the npz that `runtime profile` writes"


class Verified(NamedTuple):
    """What the verification of one token says of the distributions it came from."""

    entropy: float = math.nan
    """Bits, the target's."""
    top1: float = math.nan
    """Probability of the target's likeliest token."""
    distance: float = math.nan
    """Total variation distance of the draft's and the target's distribution."""


@dataclass(frozen=True)
class Text:
    """One traced output."""

    key: str
    task: str
    rollouts: list[list[TokenSignals]]
    """Per position, the signals of the 16 tokens that the draft writes from there."""
    accepted: list[int]
    """Per position, how many of them the target accepts, in [0, 16]."""
    verified: list[Verified] | None = None
    """Per position, of the token before it; None where the profile kept none."""
    seconds: list[bool] | None = None
    """Per position, whether the draft's second choice is the target's token; None likewise."""

    @property
    def positions(self) -> int:
        """Tokens that the target wrote."""
        return len(self.accepted)

    def verified_before(self, position: int) -> Verified:
        """Return what is known of the token before a position; NaN where nothing is, and at the text's end."""
        return self.verified[position] if self.verified and position < self.positions else Verified()


def read_traces(path: Path) -> list[Text]:
    """Read an npz of arrays `[positions, 16, 4]` (accepted, entropy in bits, top-1, top-2), keyed INDEX_TASK.

    `NAME_verified.npz` beside `NAME.npz` is read too, where there is one: under the same keys arrays `[positions, 3]`
    (entropy in bits, top-1, total variation distance), of the token before each position. So is `NAME_seconds.npz`:
    bool `[positions]`, whether the target's token is the draft's second choice.

    Raises:
        SpeckvError: naming the file, and the array that is not a trace.
    """
    check_profile(path)
    traces = _read(path, "a trace", (LOOKAHEAD, 4))
    positions = {key: len(array) for key, array in traces.items()}
    verified: Mapping[str, NDArray[np.float64]] = {}
    if (beside := verified_beside(path)).exists():
        verified = _read(beside, "verified", (3,))
        _check_beside(beside, positions, verified)
    seconds: Mapping[str, NDArray[np.bool_]] = {}
    if (beside := seconds_beside(path)).exists():
        seconds = _read_seconds(beside)
        _check_beside(beside, positions, seconds)
    return [_text(path, key, array, verified.get(key), seconds.get(key)) for key, array in traces.items()]


def verified_beside(path: Path) -> Path:
    """Return where what verification left behind lies, for a file of traces."""
    return path.with_name(f"{path.stem}_verified.npz")


def seconds_beside(path: Path) -> Path:
    """Return where it lies at which positions the draft's second choice is right, likewise."""
    return path.with_name(f"{path.stem}_seconds.npz")


def _read(path: Path, what: str, shape: tuple[int, ...]) -> dict[str, NDArray[np.float64]]:
    """Read all arrays of an npz, each `[positions, *shape]`."""
    arrays = read_npz(path, LARGEST, GIVE)
    if not arrays:
        raise SpeckvError(f"{path} holds no traces: {GIVE}")
    return {key: _checked(path, key, array, what, shape) for key, array in arrays.items()}


def _read_seconds(path: Path) -> dict[str, NDArray[np.bool_]]:
    arrays = read_npz(path, LARGEST, GIVE)
    for key, array in arrays.items():
        if array.dtype != np.bool_ or array.ndim != 1:
            raise SpeckvError(f"{path}: '{key}' is {array.dtype} {list(array.shape)}: it is bool [positions]")
    return arrays


def _check_beside(path: Path, positions: Mapping[str, int], arrays: Mapping[str, NDArray[Any]]) -> None:
    for key in sorted(positions.keys() | arrays.keys()):
        if key not in positions or key not in arrays:
            fault = "lacks" if key in positions else "has another text,"
            raise SpeckvError(f"{path} {fault} '{key}': it belongs to other traces, profile again or remove it")
        if len(arrays[key]) != positions[key]:
            raise SpeckvError(
                f"{path}: '{key}' has {len(arrays[key])} positions, its trace {positions[key]}: profile again"
            )


def _checked(path: Path, key: str, array: NDArray[Any], what: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if array.shape[1:] != shape or not len(array) or array.dtype.kind != "f":
        sides = ", ".join(map(str, shape))
        raise SpeckvError(
            f"{path}: '{key}' is {array.dtype} {list(array.shape)}: {what} is floating point [positions, {sides}]"
        )
    if not np.isfinite(array).all():
        raise SpeckvError(f"{path}: '{key}' holds values that are not finite: profile again")
    # Flags, probabilities and distances end at 1; in both kinds of array entropies are the first or second number.
    bounds = (1, MAX_ENTROPY_BITS, 1, 1) if what == "a trace" else (MAX_ENTROPY_BITS, 1, 1)
    if (array < -ROUNDING).any() or (array > np.array(bounds) + ROUNDING).any():
        raise SpeckvError(f"{path}: '{key}' holds no entropies in bits and probabilities: profile again")
    return array.astype(np.float64)


def _text(
    path: Path,
    key: str,
    array: NDArray[np.float64],
    verified: NDArray[np.float64] | None,
    seconds: NDArray[np.bool_] | None,
) -> Text:
    task = key.partition("_")[2]
    if not task:
        raise SpeckvError(f"{path}: '{key}' names no task: the keys of traces are INDEX_TASK")
    check_task(task, f"{path}: the task of '{key}'")
    flags = array[:, :, 0]
    if not np.isin(flags, (0, 1)).all() or (np.diff(flags, axis=1) > 0).any():
        raise SpeckvError(f"{path}: '{key}' has accepted flags that are not ones and then zeros: profile again")
    rollouts = [[TokenSignals(*token) for token in row] for row in array[:, :, 1:].tolist()]
    rows = None if verified is None else [Verified(*row) for row in verified.tolist()]
    others = None if seconds is None else seconds.tolist()
    return Text(key, task, rollouts, flags.sum(axis=1).astype(int).tolist(), rows, others)
