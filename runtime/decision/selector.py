"""The decision: which gamma the SpecKV-MLP16 predictor expects the most tokens from."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.artifacts import package_folder
from runtime.contract import COMPRESSION_CODES, DECISION_FILE, PUBLISHED_CANDIDATES, SIGNALS
from runtime.decision.session import PROVIDERS, import_onnxruntime, open_packaged
from runtime.decision.signals import UPPER_BOUNDS, check_signals
from runtime.errors import SpeckvError
from runtime.hub import package_from

FloatArray = NDArray[np.float32]
INPUTS = ("signals", "comp_enc", "candidates", "step_cost")
LONGEST_CANDIDATE = 2**20
"""Tokens; beyond any context, and far from where float32 outputs lose whole tokens."""
OUTPUTS = ("gamma", "expected_tokens", "predicted_acceptance_rate")


class Decision(NamedTuple):
    """One decision over `k` candidates."""

    gamma: int
    """The chosen speculation length, in tokens."""
    expected_tokens: FloatArray
    """float32 `[k]`: rate · candidate + 1, tokens per step, before the division by `step_cost`."""
    predicted_acceptance_rate: FloatArray
    """float32 `[k]`, clipped to [0, 1]."""


class BatchDecision(NamedTuple):
    """`batch` decisions over the same `k` candidates."""

    gamma: NDArray[np.int64]
    """int64 `[batch]`, tokens."""
    expected_tokens: FloatArray
    """float32 `[batch, k]`, tokens per step."""
    predicted_acceptance_rate: FloatArray
    """float32 `[batch, k]`, clipped to [0, 1]."""


class GammaSelector:
    """Chooses gamma by the rule of SpecKV (Shukla 2026, algorithm 1): first argmax of (rate · gamma + 1) / step_cost.

    The whole decision is one call of the ONNX graph. One selector may be shared by threads.

    Args:
        package: folder of a predictor package; the shipped one by default.
        providers: "cpu", "cuda", or "auto". "auto" is the CPU: a single decision is faster there than a launch on
            the device (`python -m runtime latency` measures both).

    Raises:
        SpeckvError: if the package or the provider cannot be had, or the graph is not the one in its manifest.
    """

    def __init__(self, package: Path | str | None = None, providers: str = "auto") -> None:
        self.folder = package_folder() if package is None else Path(package)
        self.provider = _provider(providers)
        self.session = open_packaged(self.folder, DECISION_FILE, self.provider)
        self._lock = threading.Lock()
        # Two sets of buffers: one that is never rewritten, for the published candidates; one for whatever is asked.
        self._published = _Binding(self.session, len(PUBLISHED_CANDIDATES), self.provider)
        self._published.candidates[:] = PUBLISHED_CANDIDATES
        self._asked = _Binding(self.session, len(PUBLISHED_CANDIDATES), self.provider)

    @classmethod
    def from_pretrained(
        cls, path_or_repo_id: Path | str, revision: str | None = None, providers: str = "auto"
    ) -> GammaSelector:
        """Make a selector from a folder, or from a Hugging Face Hub repository, of which only the graph is downloaded.

        Args:
            path_or_repo_id: folder of a predictor package, or OWNER/NAME of a repository with the same files.
            revision: branch, tag or commit of the repository.
            providers: as above.

        Raises:
            SpeckvError: as above, or if the repository cannot be had.
        """
        _provider(providers)  # before anything is downloaded
        return cls(package_from(path_or_repo_id, revision, [DECISION_FILE]), providers)

    def __reduce__(self) -> tuple[type[GammaSelector], tuple[Path, str]]:
        """A copy, or a selector sent to another process, opens its package anew."""
        return GammaSelector, (self.folder, self.provider)

    def __repr__(self) -> str:
        return f"GammaSelector(provider={self.provider!r})"

    def select(
        self,
        signals: Sequence[float],
        compression: str | int,
        candidates: Sequence[int] | None = None,
        step_cost: Sequence[float] | None = None,
    ) -> Decision:
        """Decide once.

        Args:
            signals: the four of `runtime.Signals`, in that order; entropies in bits.
            compression: the target's precision, "fp16", "int8" or "nf4", or its code 0, 1 or 2.
            candidates: speculation lengths in tokens to choose from; the published 2, 4, 6, 8 by default.
            step_cost: cost of a step with each candidate, in any unit, > 0; ones (the published rule) by default.

        Raises:
            SpeckvError: naming the argument that is wrong.
        """
        values = _four_numbers(signals)
        check_signals(*values)
        code = compression_code(compression)
        if candidates is None and step_cost is None:
            with self._lock:
                return self._published.decide(values, code)
        lengths = check_candidates(PUBLISHED_CANDIDATES if candidates is None else candidates)
        costs = check_step_cost(step_cost, len(lengths))
        with self._lock:
            if len(lengths) != len(self._asked.candidates):
                self._asked = _Binding(self.session, len(lengths), self.provider)
            self._asked.candidates[:] = lengths
            self._asked.step_cost[:] = costs
            return self._asked.decide(values, code)

    def select_batch(
        self,
        signals: ArrayLike,
        compression: str | int | ArrayLike,
        candidates: Sequence[int] | None = None,
        step_cost: Sequence[float] | None = None,
    ) -> BatchDecision:
        """Decide for a batch: `signals` is `[batch, 4]`, `compression` one value for all or `[batch]` codes.

        Raises:
            SpeckvError: naming the row and the signal that is wrong.
        """
        rows = _float64("signals", signals)
        if rows.ndim != 2 or rows.shape[1] != len(SIGNALS):
            raise SpeckvError(f"signals has shape {rows.shape}: it must be [batch, {len(SIGNALS)}]")
        _check_rows(rows)
        lengths = check_candidates(PUBLISHED_CANDIDATES if candidates is None else candidates)
        feeds = {
            "signals": rows.astype(np.float32),
            "comp_enc": _codes(compression, len(rows)),
            "candidates": lengths,
            "step_cost": check_step_cost(step_cost, len(lengths)),
        }
        return BatchDecision(*self.session.run(OUTPUTS, feeds))


class _Binding:
    """Preallocated input and output buffers of one decision over `k` candidates.

    On the CPU the graph reads and writes these numpy arrays in place, so a call allocates nothing but its answer.
    """

    _pack = struct.Struct("4f").pack_into

    def __init__(self, session: Any, k: int, provider: str) -> None:
        self._session = session
        self.signals = np.zeros((1, len(SIGNALS)), np.float32)
        self._signals_buffer = self.signals.data
        self.comp_enc = np.zeros(1, np.int64)
        self.candidates = np.zeros(k, np.int64)
        self.step_cost = np.ones(k, np.float32)
        self._inputs = dict(zip(INPUTS, (self.signals, self.comp_enc, self.candidates, self.step_cost), strict=True))
        self._gamma = np.zeros(1, np.int64)
        self._expected_tokens = np.zeros((1, k), np.float32)
        self._rate = np.zeros((1, k), np.float32)
        self._io: Any = None
        if provider == "cpu":
            self._bind_in_place()

    def _bind_in_place(self) -> None:
        wrap = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._io = self._session.io_binding()
        for name, array in self._inputs.items():
            self._io.bind_ortvalue_input(name, wrap(array))
        for name, buffer in zip(OUTPUTS, (self._gamma, self._expected_tokens, self._rate), strict=True):
            self._io.bind_ortvalue_output(name, wrap(buffer))

    def decide(self, signals: Sequence[float], code: int) -> Decision:
        self._pack(self._signals_buffer, 0, *signals)
        self.comp_enc[0] = code
        if self._io is None:
            gamma, expected, rate = self._session.run(OUTPUTS, self._inputs)
            return Decision(int(gamma[0]), expected[0], rate[0])
        self._session.run_with_iobinding(self._io)
        # Copies: the next call writes into these buffers.
        return Decision(int(self._gamma[0]), self._expected_tokens.copy()[0], self._rate.copy()[0])


def _provider(providers: str) -> str:
    if providers not in ("auto", *PROVIDERS):
        raise SpeckvError(f"providers is {providers!r}: it must be 'auto', 'cpu' or 'cuda'")
    return "cpu" if providers == "auto" else providers


def compression_code(compression: str | int) -> int:
    """Return `comp_enc` for a target precision ("fp16", "int8", "nf4") or a code (0, 1, 2).

    Raises:
        SpeckvError: for anything else.
    """
    if isinstance(compression, str):
        code = COMPRESSION_CODES.get(compression, -1)
    else:
        whole = isinstance(compression, int | np.integer) and not isinstance(compression, bool)
        code = int(compression) if whole else -1
    if not 0 <= code < len(COMPRESSION_CODES):
        raise SpeckvError(f"compression is {_shown(compression)}: it must be fp16, int8 or nf4 (0, 1, 2)")
    return code


def check_candidates(candidates: Sequence[int]) -> NDArray[np.int64]:
    """Return candidates as int64 `[k]`, k ≥ 1.

    Raises:
        SpeckvError: if they are not lengths in tokens.
    """
    try:
        lengths = np.asarray(candidates)
    except (TypeError, ValueError):
        lengths = np.asarray(None)
    good = lengths.ndim == 1 and len(lengths) and lengths.dtype.kind in "iu"
    if not good or not ((lengths >= 0) & (lengths <= LONGEST_CANDIDATE)).all():
        raise SpeckvError(
            f"candidates is {_shown(candidates)}: it must be one or more whole numbers of tokens, at most "
            f"{LONGEST_CANDIDATE}"
        )
    return lengths.astype(np.int64)


def check_step_cost(step_cost: Sequence[float] | None, k: int) -> FloatArray:
    """Return step costs as float32 `[k]`; ones for None.

    Raises:
        SpeckvError: if they are not one positive number for each of the `k` candidates.
    """
    if step_cost is None:
        return np.ones(k, np.float32)
    costs = _float64("step_cost", step_cost)
    smallest, largest = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    if costs.shape != (k,) or not ((costs >= smallest) & (costs <= largest)).all():
        raise SpeckvError(
            f"step_cost is {_shown(step_cost)}: it must be one positive float32 for each of {k} candidates"
        )
    return costs.astype(np.float32)


def _four_numbers(signals: Sequence[float]) -> tuple[float, float, float, float]:
    try:
        if isinstance(signals, set | dict):
            raise TypeError("it has no order")
        mean_entropy, mean_confidence, max_entropy, min_confidence = signals
        return float(mean_entropy), float(mean_confidence), float(max_entropy), float(min_confidence)
    except (TypeError, ValueError, OverflowError):
        raise SpeckvError(f"signals is {_shown(signals)}: it must be the four numbers {', '.join(SIGNALS)}") from None


def _check_rows(rows: NDArray[np.float64]) -> None:
    good = (rows >= 0) & (rows <= np.asarray(UPPER_BOUNDS))  # NaN compares false
    if not good.all():
        row = int(np.argmin(good.all(axis=1)))
        try:
            check_signals(*rows[row].tolist())
        except SpeckvError as error:
            raise SpeckvError(f"signals row {row}: {error}") from None


def _codes(compression: str | int | ArrayLike, batch: int) -> NDArray[np.int64]:
    if isinstance(compression, str | int | np.integer):
        return np.full(batch, compression_code(compression), np.int64)  # type: ignore[arg-type]
    try:
        codes = np.asarray(compression)
    except ValueError:
        codes = np.asarray(None)
    if codes.shape != (batch,):
        raise SpeckvError(
            f"compression is {_shown(compression)}: it must be one value, or one for each of {batch} rows"
        )
    values = codes.tolist()
    by_value = {}
    for value in set(values):
        try:
            by_value[value] = compression_code(value)
        except SpeckvError as error:
            raise SpeckvError(f"row {values.index(value)}: {error}") from None
    return np.asarray([by_value[value] for value in values], np.int64)


def _shown(value: object) -> str:
    """Return what was given as part of a message."""
    try:
        return repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        return f"a {type(value).__name__} beyond all bounds"


def _float64(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.ascontiguousarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SpeckvError(f"{name} cannot be read as numbers: {error}") from None
