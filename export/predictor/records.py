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
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.contract import COMPRESSION_CODES, FEATURES, MAX_ENTROPY_BITS, SIGNALS
from runtime.errors import SpeckvError

COUNTS = ("gamma", "step", "accepted", "tokens_produced")
COLUMNS = ("compression", "task", "acceptance_rate", *COUNTS, *SIGNALS)

PUBLISHED_SHA256 = "89ae38999b553cc6ef48fcd1d632585c7e5c59e6a17913c30348a4490f40bae3"
"""SHA-256 of `results/phase2_step_results.csv` in github.com/Amorfati123/SpecKV: how a card knows what it may claim."""

MAX_GAMMA = 1024
"""Tokens drafted in one step: far above any published length (8)."""

MAX_RECORDS = 10_000_000
"""Of all files together: two thousand times the published ones, and one gigabyte."""

LONGEST_LINE = 1 << 20
"""Characters."""

LONGEST_TASK = 64
"""Characters of a task's name."""

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
    """Read and check the step records in `paths` (CSV, UTF-8, header row), ten million at most.

    Raises:
        SpeckvError: naming file, row (line number) and column, for anything that is not a step record.
    """
    files: list[RecordFile] = []
    table = _Table()
    for path in paths:
        before = len(table)
        sha256 = _read(path, table)
        if any(sha256 == earlier.sha256 for earlier in files):
            raise SpeckvError(f"{path.name}: the same records are given twice; give each file once")
        files.append(RecordFile(path.name, sha256, len(table) - before))
    return table.records(tuple(files))


class _Table:
    """Checked records as they come, in columns of plain numbers: 72 bytes a record, not the 2,000 of a dictionary."""

    def __init__(self) -> None:
        self._features, self._rates, self._produced, self._tasks = array("d"), array("d"), array("d"), array("q")
        self._task_numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rates)

    def add(self, compression: str, task: str, values: Mapping[str, float]) -> None:
        self._features.extend(values[signal] for signal in SIGNALS)
        self._features.extend((COMPRESSION_CODES[compression], values["gamma"]))
        self._rates.append(values["acceptance_rate"])
        self._produced.append(values["tokens_produced"])
        self._tasks.append(self._task_numbers.setdefault(task, len(self._task_numbers)))

    def records(self, files: tuple[RecordFile, ...]) -> Records:
        features = np.frombuffer(self._features).reshape(-1, len(FEATURES))
        return Records(
            features=features,
            acceptance_rate=np.frombuffer(self._rates),
            tokens_produced=np.frombuffer(self._produced),
            compression=np.array(list(COMPRESSION_CODES))[features[:, FEATURES.index("comp_enc")].astype(np.int64)],
            task=np.array(list(self._task_numbers))[np.frombuffer(self._tasks, np.int64)],
            files=files,
        )


class _Hashed(io.RawIOBase):
    """A file whose SHA-256 is taken while it is read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self.sha256.update(memoryview(buffer)[:count])
        return count


def _read(path: Path, table: _Table) -> str:
    """Add the records of one file to `table`; return the SHA-256 of its bytes."""
    try:
        with path.open("rb", buffering=0) as file:
            hashed = _Hashed(file)
            # Bytes that are no UTF-8 come as surrogates: `_lines` names the row.
            text = io.TextIOWrapper(io.BufferedReader(hashed), "utf-8-sig", "surrogateescape", newline="")
            _parse(path.name, text, table)
            return hashed.sha256.hexdigest()
    except OSError as error:
        raise SpeckvError(f"cannot read the records {path}: {error.strerror}") from None


def _lines(name: str, text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise SpeckvError(f"{name}, row {number}: longer than {LONGEST_LINE} characters: not a step record")
        if not line.isascii() and (found := re.search("[\udc80-\udcff]", line)):
            raise SpeckvError(
                f"{name}, row {number}: byte 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8; save the file as UTF-8"
            )
        yield line


def _parse(name: str, text: io.TextIOWrapper, table: _Table) -> None:
    reader = csv.reader(_lines(name, text), strict=True)
    before = len(table)
    try:
        header = next(reader, [])
        _check_header(name, header)
        places = {column: header.index(column) for column in COLUMNS}
        for fields in reader:
            if not fields:
                continue
            where = f"{name}, row {reader.line_num}"
            if len(fields) > len(header):
                raise SpeckvError(f"{where}: more fields than the header has columns")
            if len(table) == MAX_RECORDS:
                raise SpeckvError(f"{where}: more than {MAX_RECORDS:,} records; give a sample of them")
            row = {column: fields[place] if place < len(fields) else "" for column, place in places.items()}
            table.add(row["compression"], row["task"], _check_row(row, where))
    except csv.Error as error:
        raise SpeckvError(f"{name}, row {reader.line_num}: not CSV ({error})") from None
    if len(table) == before:
        raise SpeckvError(f"{name}: a header and no records; give a file with at least one step")


def _check_header(name: str, header: Sequence[str]) -> None:
    if not header:
        raise SpeckvError(f"{name}: the file is empty; give step records with the columns {', '.join(COLUMNS)}")
    for column in COLUMNS:
        if header.count(column) != 1:
            problem = "is missing" if column not in header else "appears more than once"
            raise SpeckvError(f"{name}, row 1: column '{column}' {problem}; needed are {', '.join(COLUMNS)}")


def _check_row(row: dict[str, str], where: str) -> dict[str, float]:
    """Return the numbers of one row after checking every column of it."""
    if row["compression"] not in COMPRESSION_CODES:
        found, known = _short(row["compression"]), ", ".join(COMPRESSION_CODES)
        raise SpeckvError(f"{where}, column 'compression': '{found}' is unknown; known are {known}")
    if not row["task"]:
        raise SpeckvError(f"{where}, column 'task': the field is empty")
    if len(row["task"]) > LONGEST_TASK or not row["task"].isprintable():
        raise SpeckvError(
            f"{where}, column 'task': '{_short(row['task'])}' is no name (at most {LONGEST_TASK} printable characters)"
        )
    values = {column: _number(row[column], column, where) for column in COLUMNS[2:]}
    for column in COUNTS:
        if values[column] != int(values[column]) or values[column] < 0:
            raise SpeckvError(f"{where}, column '{column}': {_short(row[column])} is not a count of 0 or more")
    for column in ("acceptance_rate", "mean_draft_confidence", "min_draft_confidence"):
        _check_range(values[column], 1.0, column, where)
    for column in ("mean_draft_entropy", "max_draft_entropy"):
        _check_range(values[column], MAX_ENTROPY_BITS, column, where)
    _check_order(values, "mean_draft_entropy", "max_draft_entropy", where)
    _check_order(values, "min_draft_confidence", "mean_draft_confidence", where)
    _check_counts(values, where)
    return values


def _number(text: str, column: str, where: str) -> float:
    try:
        value = float(text.replace("_", "?"))  # Python reads 1_0 as 10
    except ValueError:
        raise SpeckvError(f"{where}, column '{column}': '{_short(text)}' is not a number") from None
    if not math.isfinite(value):
        raise SpeckvError(f"{where}, column '{column}': {_short(text)} is not a finite number")
    return value


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TASK else f"{text[:LONGEST_TASK]}…"


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
