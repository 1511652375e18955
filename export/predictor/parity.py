"""Proof that a written package computes what its regressor computes.

The same rows go through the regressor's own `predict`, the npz weights in numpy, and both ONNX graphs in onnxruntime.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.predictor.published_loop import Floats, Regressor, clipped_rate
from export.predictor.unpickler import read_pickle
from export.predictor.weights import Weights, read_weights
from runtime.contract import DECISION_FILE, PICKLE_FILE, PREDICTOR_FILE, PUBLISHED_CANDIDATES, WEIGHTS_FILE
from runtime.decision.session import open_session

TOLERANCE = 1e-6
RANDOM_ROWS = 100_000
BATCHES = (0, 1, 7, 4096)
"""Batch sizes run first; the remaining rows follow in batches of the last size."""

TIE = 1e-12
"""Candidates closer than this are equal in float64 but for the order of summation: either may win."""


class ParityError(Exception):
    """The written files do not compute what the regressor computes."""


@dataclass(frozen=True)
class Parity:
    """Largest differences to the regressor over `rows` rows.

    A difference is absolute up to a value of 1 and relative above (float32 outputs hold seven digits).

    Attributes:
        reference: what the files were compared with.
        weights, predictor, decision_rate, decision_tokens: npz weights, predictor graph, and the decision graph's two
            float outputs.
        gamma_ties: rows where the decision graph's gamma is not the published loop's, but ties with it in float64.
    """

    reference: str
    rows: int
    weights: float
    predictor: float
    decision_rate: float
    decision_tokens: float
    gamma_ties: int

    @property
    def largest(self) -> float:
        """The largest of all differences; NaN where an output was NaN."""
        return float(np.max([self.weights, self.predictor, self.decision_rate, self.decision_tokens]))


def check_parity(folder: Path, records: Floats | None = None) -> Parity:
    """Compare the files in `folder` with the regressor pickled there, on random rows, edge rows and `records` [n, 6].

    Raises:
        SpeckvError: if the pickle cannot be read.
        ParityError: naming the file and the row, if a difference exceeds `TOLERANCE` or a gamma differs.
    """
    # The graphs take float32: both sides see the same rounded numbers.
    rows = np.concatenate([edge_rows(), random_rows(), *([] if records is None else [records])]).astype(np.float32)
    exact = rows.astype(np.float64)
    regressor = read_weights(read_pickle(folder / PICKLE_FILE)).regressor()
    rate = regressor.predict(exact)
    tokens, rates = _published_scores(regressor, exact)
    from_weights = Weights.from_npz((folder / WEIGHTS_FILE).read_bytes()).rate(exact)
    from_predictor = _run_predictor(folder / PREDICTOR_FILE, rows)
    gamma, decision_tokens, decision_rates = _run_decision(folder / DECISION_FILE, rows)
    differences = {
        "weights": _difference(WEIGHTS_FILE, from_weights, rate, rows),
        "predictor": _difference(PREDICTOR_FILE, from_predictor, rate, rows),
        "decision_rate": _difference(DECISION_FILE, decision_rates, rates, rows),
        "decision_tokens": _difference(DECISION_FILE, decision_tokens, tokens, rows),
    }
    ties = _gamma_ties(gamma, tokens, exact)
    reference = "scikit-learn MLPRegressor.predict, float64"
    return Parity(reference, len(rows), **differences, gamma_ties=ties)


def edge_rows() -> Floats:
    """Return every combination of extreme inputs, float64 [n, 6]: entropies 0, 1, 12 bits, confidences 0 and 1."""
    bits, confidences, codes, gammas = (0, 1, 12), (0, 1), (0, 1, 2), (0, 1, *PUBLISHED_CANDIDATES, 32)
    return np.array(list(itertools.product(bits, confidences, bits, confidences, codes, gammas)), dtype=np.float64)


def random_rows(count: int = RANDOM_ROWS) -> Floats:
    """Return seeded random rows, float64 [count, 6]: entropies to 12 bits, any confidence, gamma 1 to 16."""
    generator = np.random.default_rng(0)
    low, high = [0, 0, 0, 0], [12, 1, 12, 1]
    signals = generator.uniform(low, high, size=(count, 4))
    codes, gammas = generator.integers(0, 3, count), generator.integers(1, 17, count)
    return np.column_stack([signals, codes, gammas])


def _published_scores(regressor: Regressor, rows: Floats) -> tuple[Floats, Floats]:
    """Return the published loop's expected tokens and clipped rates, float64 [n, k]."""
    rates = np.stack([clipped_rate(regressor, rows, gamma) for gamma in PUBLISHED_CANDIDATES], axis=1)
    return rates * PUBLISHED_CANDIDATES + 1, rates


def _run_predictor(file: Path, rows: npt.NDArray[np.float32]) -> Floats:
    (rates,) = _run(file, ({"features": rows[part]} for part in _batches(len(rows))))
    return rates[:, 0].astype(np.float64)


def _run_decision(file: Path, rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    candidates = np.array(PUBLISHED_CANDIDATES, dtype=np.int64)
    costs = np.ones(len(candidates), dtype=np.float32)

    def feed(part: slice) -> dict[str, npt.NDArray[Any]]:
        codes = rows[part, 4].astype(np.int64)
        return {"signals": rows[part, :4], "comp_enc": codes, "candidates": candidates, "step_cost": costs}

    gamma, tokens, rates = _run(file, map(feed, _batches(len(rows))))
    return gamma, tokens.astype(np.float64), rates.astype(np.float64)


def _run(file: Path, feeds: Iterable[dict[str, npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    """Return every output of `file` over all `feeds`, concatenated."""
    try:
        model = open_session(file, "cpu")
        outputs = [model.run(None, feed) for feed in feeds]
    except Exception as error:  # onnxruntime's own types share no base class
        raise ParityError(f"{file.name}: onnxruntime cannot run it: {str(error).splitlines()[0]}") from None
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def _batches(rows: int) -> Iterator[slice]:
    start = 0
    for size in itertools.chain(BATCHES, itertools.repeat(BATCHES[-1])):
        yield slice(start, start + size)
        start += size
        if start >= rows:
            return


def _difference(file: str, found: Floats, expected: Floats, rows: npt.NDArray[np.float32]) -> float:
    difference = np.abs(found - expected) / np.maximum(np.abs(expected), 1)
    worst = np.unravel_index(np.argmax(difference), difference.shape)
    largest = float(difference[worst])
    if not largest <= TOLERANCE:  # so that NaN fails as well
        raise ParityError(
            f"{file}: row {worst[0]} {rows[worst[0]].tolist()} gives {found[worst]:.9g}, "
            f"the regressor {expected[worst]:.9g}: difference {largest:.3g} exceeds {TOLERANCE:g}"
        )
    return largest


def _gamma_ties(gamma: npt.NDArray[np.int64], tokens: Floats, rows: Floats) -> int:
    """Return how many rows differ among ties; raise ParityError if any other row does."""
    candidates = np.array(PUBLISHED_CANDIDATES)
    expected = candidates[tokens.argmax(axis=1)]  # first maximum wins, as in the published loop
    other = np.flatnonzero(gamma != expected)
    given = np.where(candidates == gamma[:, None], tokens, -np.inf).max(axis=1)
    wrong = other[tokens.max(axis=1)[other] - given[other] > TIE]
    if len(wrong):
        row = wrong[0]
        raise ParityError(
            f"{DECISION_FILE}: row {row} {rows[row].tolist()} gives gamma {gamma[row]}, the published loop "
            f"{expected[row]} (expected tokens {tokens[row].tolist()}); {len(wrong)} rows differ"
        )
    return len(other)
