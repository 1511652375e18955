"""`python -m export vectors`: inputs and right answers of the decision, for tests in any language.

The answers come from the regressor's own `predict` and the published rule in float64 (SpecKV, Shukla 2026,
algorithm 1), never from the ONNX graph that they test.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.predictor.parity import TOLERANCE
from export.predictor.published_loop import Floats, Regressor, clipped_rate
from export.predictor.unpickler import read_pickle
from export.predictor.weights import read_weights
from runtime.artifacts import package_folder
from runtime.contract import COMPRESSION_CODES, DECISION_FILE, PACKAGE_NAME, PICKLE_FILE, PUBLISHED_CANDIDATES
from runtime.errors import SpeckvError
from runtime.files import read_object, replacing_file

VECTORS = Path(__file__).resolve().parents[2] / "tests" / "vectors" / "decisions.json"
CLEAR_MARGIN = 1e-6
"""Two best scores must be equal or at least this far apart: nothing may hang on the order of a sum."""

FULL_RATE = (32.0, 0.0, 32.0, 0.0)
"""Signals far outside the records, at which the regressor exceeds 1 for every candidate."""
NO_RATE = (2.0, 0.0, 8.0, 0.0)
"""Signals that no draft has, at which it is below 0 for the published candidates."""


class Case(NamedTuple):
    """Inputs of one call of the decision graph, as its contract names them."""

    name: str
    signals: Sequence[tuple[float, ...]]
    comp_enc: list[int]
    candidates: tuple[int, ...] = PUBLISHED_CANDIDATES
    step_cost: tuple[float, ...] = (1.0,) * len(PUBLISHED_CANDIDATES)


def main(argv: Sequence[str]) -> int:
    """Write the vectors of the shipped predictor.

    Raises:
        SpeckvError: if a case is not clear-cut, or the file cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m export vectors",
        description="Write inputs and right answers of the shipped predictor, for tests in any language.",
        epilog="example:\n  python -m export vectors --output decisions.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output", type=Path, default=VECTORS, metavar="FILE", help="default: tests/vectors/ of a clone"
    )
    file: Path = parser.parse_args(argv).output
    _check_place(file)
    content = vectors()
    text = as_text(content)
    try:
        with replacing_file(file) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SpeckvError(f"{file}: {error.strerror}: choose another place with --output") from None
    print(f"{file}: {len(content['cases'])} cases, {len(text):,} bytes")
    return 0


def _check_place(file: Path) -> None:
    """Raise SpeckvError unless there is nothing, or a file of vectors."""
    advice = "choose another place with --output"
    if not os.path.lexists(file):
        return
    if not file.is_file() or file.is_symlink():
        raise SpeckvError(f"{file} is no ordinary file: {advice}")
    if not {"regressor_sha256", "cases"} <= read_object(file, advice).keys():
        raise SpeckvError(f"{file} holds something else than vectors: {advice}")


def vectors() -> dict[str, Any]:
    """Return the content of `tests/vectors/decisions.json`."""
    pickled = read_pickle(package_folder() / PICKLE_FILE)
    regressor = read_weights(pickled).regressor()
    return {
        "graph": f"models/{PACKAGE_NAME}/{DECISION_FILE}",
        "regressor_sha256": pickled.sha256,
        "tolerance": TOLERANCE,
        "tolerance_is": "absolute for values up to 1, relative above; gamma is exact",
        "cases": [{**case._asdict(), **_answer(case, regressor)} for case in cases()],
    }


def cases() -> Iterator[Case]:
    """Yield every case; their names say what each is there for."""
    generator = random.Random(0)  # its sequence is the same in every Python
    codes = COMPRESSION_CODES.values()
    for name, code in COMPRESSION_CODES.items():
        for number in range(12):
            yield Case(f"ordinary signals, {name}, {number}", [_ordinary(generator)], [code])
        yield Case(f"signals at their bounds, {name}", [(0, 1, 0, 1), (0, 0, 0, 0), (32, 1, 32, 1)], [code] * 3)
        yield Case(f"rates clipped to 1, {name}", [FULL_RATE], [code])
        yield Case(f"rates clipped to 0: the first of four equal candidates, {name}", [NO_RATE], [code])
        yield Case(f"step times, {name}", [_ordinary(generator)], [code], step_cost=(21.0, 27.5, 40.25, 66.0))
    full, none = [FULL_RATE], [NO_RATE]
    yield Case("a tie by cost: the first wins, not the least", full, [0], (6, 2, 8), (7.0, 3.0, 9.0))
    yield Case("a tie by cost behind a worse candidate", full, [0], (1, 6, 2), (4.0, 7.0, 3.0))
    yield Case("the same candidate twice", [_ordinary(generator)], [1], (4, 4), (1.0, 1.0))
    yield Case("equal rates of 0, unequal costs", none, [2], (8, 4, 2), (3.0, 2.0, 2.5))
    yield Case("one candidate", [_ordinary(generator)], [0], (5,), (3.5,))
    yield Case("no speculation among the candidates", [_ordinary(generator)], [1], (0, 1, 3), (1.0, 4.0, 9.0))
    yield Case("candidates in falling order", [_ordinary(generator)], [2], (16, 8, 4, 2, 1), (16.0, 8.0, 5.0, 4.0, 3.0))
    yield Case("a long candidate", [_ordinary(generator)], [0], (2, 1024), (1.0, 600.0))
    yield Case("costs far from 1", [_ordinary(generator)], [0], (2, 4, 8), (1e-6, 1.5e-6, 9e-6))
    yield Case("an empty batch", [], [])
    for name, code in COMPRESSION_CODES.items():
        yield Case(f"a batch, {name}", [_ordinary(generator) for _ in range(8)], [code] * 8)
    mixed = [code for code in codes for _ in range(5)]
    generator.shuffle(mixed)
    batch = [_ordinary(generator) for _ in mixed]
    yield Case("a batch of mixed compressions", batch, mixed)
    yield Case("a batch with candidates and costs", batch, mixed, (1, 2, 3, 5, 9), (11.0, 12.5, 14.0, 18.0, 27.0))


def as_text(content: dict[str, Any]) -> str:
    """Return `content` as JSON with one line a case."""
    head = {key: value for key, value in content.items() if key != "cases"}
    lines = ",\n".join(json.dumps(case) for case in content["cases"])
    return f'{json.dumps(head, indent=1)[:-2]},\n "cases": [\n{lines}\n ]\n}}\n'


def _ordinary(generator: random.Random) -> tuple[float, ...]:
    """Return signals that a step can have: the extremes are no milder than the means."""
    mean_entropy, mean_confidence = generator.uniform(0.05, 4), generator.uniform(0.3, 0.99)
    max_entropy = mean_entropy + generator.uniform(0, 3)
    min_confidence = mean_confidence * generator.uniform(0.2, 1)
    return tuple(round(value, 4) for value in (mean_entropy, mean_confidence, max_entropy, min_confidence))


def _answer(case: Case, regressor: Regressor) -> dict[str, Any]:
    """Return the decision graph's three outputs, floats to nine decimals."""
    rates = _rates(case, regressor)
    tokens = rates * case.candidates + 1
    scores = tokens / np.asarray(case.step_cost, np.float32).astype(np.float64)
    for row, score in enumerate(scores):
        best = np.sort(score / score.max())[::-1]
        if np.any((best[1:] < 1) & (best[1:] > 1 - CLEAR_MARGIN)):
            raise SpeckvError(f"case '{case.name}', row {row} is nearly a tie: change its signals in {__file__}")
    return {
        "gamma": [case.candidates[best] for best in scores.argmax(axis=1)],  # first maximum wins
        "expected_tokens": tokens.round(9).tolist(),
        "predicted_acceptance_rate": rates.round(9).tolist(),
    }


def _rates(case: Case, regressor: Regressor) -> Floats:
    """Return clipped rates, float64 [batch, k]."""
    if not case.signals:
        return np.empty((0, len(case.candidates)))
    # The graph takes float32: both sides see the same rounded numbers.
    signals = np.asarray(case.signals, np.float32).astype(np.float64)
    features = np.column_stack([signals, case.comp_enc, np.zeros(len(signals))])
    return np.stack([clipped_rate(regressor, features, gamma) for gamma in case.candidates], axis=1)
