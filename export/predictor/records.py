"""Step records: the rows that a predictor is fitted on, read from CSV and checked before use.

A record is one speculation step (SpecKV, Shukla 2026, section on profiling). Its `acceptance_rate` is accepted tokens
over *drafted* tokens: a last step that was cut short by the token limit drafted fewer than `gamma`, and 165 of the
5,112 published records are such steps.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.contract import COMPRESSION_CODES, MAX_ENTROPY_BITS, SIGNALS
from runtime.errors import SpeckvError

COUNTS = ("gamma", "step", "accepted", "tokens_produced")
COLUMNS = ("compression", "task", "acceptance_rate", *COUNTS, *SIGNALS)

PUBLISHED_SHA256 = "89ae38999b553cc6ef48fcd1d632585c7e5c59e6a17913c30348a4490f40bae3"
"""SHA-256 of `results/phase2_step_results.csv` in github.com/Amorfati123/SpecKV: how a card knows what it may claim."""

MAX_GAMMA = 1024
"""Tokens drafted in one step: far above any published length (8)."""

SIGNAL_ROUNDING = 1e-3
"""How far a printed mean may lie beyond the printed extreme of the same values."""

RATE_ROUNDING = 1e-3
"""Largest difference between a printed acceptance rate and the quotient of its counts."""


@dataclass(frozen=True)
class RecordFile:
    """Where records came from: file name, SHA-256 of its bytes, number of records."""

    name: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class Records:
    """Step records in columns, all of length n.

    Attributes:
        features: float64 [n, 6] in the order of `runtime.contract.FEATURES` (entropies in bits, gamma in tokens).
        acceptance_rate: float64 [n], accepted / drafted.
        tokens_produced: float64 [n], accepted + 1.
        compression: str [n].
        task: str [n].
        files: the files read, in order.
    """

    features: npt.NDArray[np.float64]
    acceptance_rate: npt.NDArray[np.float64]
    tokens_produced: npt.NDArray[np.float64]
    compression: npt.NDArray[np.str_]
    task: npt.NDArray[np.str_]
    files: tuple[RecordFile, ...]

    def __len__(self) -> int:
        return len(self.features)

    @property
    def published(self) -> bool:
        """Whether these are exactly the step records that the SpecKV paper published."""
        return [file.sha256 for file in self.files] == [PUBLISHED_SHA256]


def read_records(paths: Sequence[Path]) -> Records:
    """Read and check the step records in `paths` (CSV, UTF-8, header row).

    Raises:
        SpeckvError: naming file, row (line number) and column, for anything that is not a step record.
    """
    files: list[RecordFile] = []
    rows: list[dict[str, str]] = []
    numbers: list[dict[str, float]] = []
    for path in paths:
        data = _bytes(path)
        file_rows, file_numbers = _parse(path.name, _text(path.name, data))
        file = RecordFile(path.name, hashlib.sha256(data).hexdigest(), len(file_rows))
        if any(file.sha256 == earlier.sha256 for earlier in files):
            raise SpeckvError(f"{path.name}: the same records are given twice; give each file once")
        files.append(file)
        rows += file_rows
        numbers += file_numbers
    return _columns(rows, numbers, tuple(files))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpeckvError(f"cannot read the records {path}: {error.strerror}") from None


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpeckvError(
            f"{name}, row {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def _parse(name: str, text: str) -> tuple[list[dict[str, str]], list[dict[str, float]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows, numbers = [], []
    try:
        _check_header(name, reader.fieldnames)
        for row in reader:
            numbers.append(_check_row(row, f"{name}, row {reader.line_num}"))
            rows.append(row)
    except csv.Error as error:
        raise SpeckvError(f"{name}, row {reader.line_num}: not CSV ({error})") from None
    if not rows:
        raise SpeckvError(f"{name}: a header and no records; give a file with at least one step")
    return rows, numbers


def _check_header(name: str, header: Sequence[str] | None) -> None:
    if not header:
        raise SpeckvError(f"{name}: the file is empty; give step records with the columns {', '.join(COLUMNS)}")
    for column in COLUMNS:
        if header.count(column) != 1:
            problem = "is missing" if column not in header else "appears more than once"
            raise SpeckvError(f"{name}, row 1: column '{column}' {problem}; needed are {', '.join(COLUMNS)}")


def _check_row(row: dict[str, str], where: str) -> dict[str, float]:
    """Return the numbers of one row after checking every column of it."""
    if None in row:
        raise SpeckvError(f"{where}: more fields than the header has columns")
    if row["compression"] not in COMPRESSION_CODES:
        known = ", ".join(COMPRESSION_CODES)
        raise SpeckvError(f"{where}, column 'compression': '{row['compression']}' is unknown; known are {known}")
    if not row["task"]:
        raise SpeckvError(f"{where}, column 'task': the field is empty")
    values = {column: _number(row[column], column, where) for column in COLUMNS[2:]}
    for column in COUNTS:
        if values[column] != int(values[column]) or values[column] < 0:
            raise SpeckvError(f"{where}, column '{column}': {row[column]} is not a count of 0 or more")
    for column in ("acceptance_rate", "mean_draft_confidence", "min_draft_confidence"):
        _check_range(values[column], 1.0, column, where)
    for column in ("mean_draft_entropy", "max_draft_entropy"):
        _check_range(values[column], MAX_ENTROPY_BITS, column, where)
    _check_order(values, "mean_draft_entropy", "max_draft_entropy", where)
    _check_order(values, "min_draft_confidence", "mean_draft_confidence", where)
    _check_counts(values, where)
    return values


def _number(text: str | None, column: str, where: str) -> float:
    try:
        value = float((text or "").replace("_", "?"))  # Python reads 1_0 as 10
    except ValueError:
        raise SpeckvError(f"{where}, column '{column}': '{text or ''}' is not a number") from None
    if not math.isfinite(value):
        raise SpeckvError(f"{where}, column '{column}': {text} is not a finite number")
    return value


def _check_range(value: float, high: float, column: str, where: str) -> None:
    if not 0 <= value <= high:
        raise SpeckvError(f"{where}, column '{column}': {value:g} is outside [0, {high:g}]")


def _check_order(values: dict[str, float], low: str, high: str, where: str) -> None:
    if values[low] > values[high] + SIGNAL_ROUNDING:
        raise SpeckvError(f"{where}, column '{low}': {values[low]:g} is above '{high}', {values[high]:g}")


def _check_counts(values: dict[str, float], where: str) -> None:
    gamma, accepted, rate = values["gamma"], values["accepted"], values["acceptance_rate"]
    if gamma < 1:
        raise SpeckvError(f"{where}, column 'gamma': a step without drafted tokens has no acceptance rate")
    if gamma > MAX_GAMMA:
        raise SpeckvError(f"{where}, column 'gamma': {gamma:g} is above {MAX_GAMMA} tokens")
    if accepted > gamma:
        raise SpeckvError(f"{where}, column 'accepted': {accepted:g} accepted of {gamma:g} drafted")
    if values["tokens_produced"] != accepted + 1:
        produced = values["tokens_produced"]
        raise SpeckvError(f"{where}, column 'tokens_produced': {produced:g} is not accepted + 1 = {accepted + 1:g}")
    drafted = _drafted(accepted, rate, gamma)
    if abs(accepted / drafted - rate) > RATE_ROUNDING:
        raise SpeckvError(
            f"{where}, column 'acceptance_rate': {rate:g} is not {accepted:g} accepted over {gamma:g} or fewer drafted"
        )


def _drafted(accepted: float, rate: float, gamma: float) -> float:
    """Return the tokens drafted in the step: the count in [accepted, gamma] that explains `rate` best."""
    if accepted == 0 or rate == 0:
        return gamma
    return float(min(max(round(accepted / rate), accepted), gamma))


def _columns(rows: list[dict[str, str]], numbers: list[dict[str, float]], files: tuple[RecordFile, ...]) -> Records:
    features = [
        [*(values[signal] for signal in SIGNALS), COMPRESSION_CODES[row["compression"]], values["gamma"]]
        for row, values in zip(rows, numbers, strict=True)
    ]
    return Records(
        features=np.array(features, dtype=np.float64),
        acceptance_rate=np.array([values["acceptance_rate"] for values in numbers]),
        tokens_produced=np.array([values["tokens_produced"] for values in numbers]),
        compression=np.array([row["compression"] for row in rows]),
        task=np.array([row["task"] for row in rows]),
        files=files,
    )
