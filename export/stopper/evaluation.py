"""Grouped cross-validation by prompt: calibration, tokens per second in replay, and what each kind of signal adds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.manifest import manifest
from export.stopper.calibration import Calibration, calibrate
from export.stopper.dataset import Traces
from export.stopper.fit import Weights, fit
from export.stopper.graph import build_stopper
from export.stopper.rows import Rows
from runtime.contract import MANIFEST_FILE, STOPPER_FILE, STOPPER_NAME
from runtime.policies.adaptive import Adaptive
from runtime.policies.fixed import Fixed
from runtime.policies.step_times import StepTimes
from runtime.replay.comparison import rate
from runtime.replay.replay import Run, replay
from runtime.replay.traces import LOOKAHEAD, Text
from runtime.stopper import history, progress
from runtime.stopper.stopper import FEATURES, Stopper

FOLDS = 6
VERIFIED = history.NAMES[history.NAMES.index("target_known") :]
"""The signals that verification leaves behind."""
SIGNALS = {
    "the draft's own": progress.NAMES,
    "and past acceptance": (*progress.NAMES, *history.NAMES[: -len(VERIFIED)]),
    "and the target's distributions": FEATURES,
}
"""Nested sets of features, the last one all of them."""


@dataclass(frozen=True)
class Validation:
    """One set of signals, cross-validated."""

    signals: str
    calibration: Calibration
    ratios: list[float]
    """Per replayed file, tokens per second over those of the best fixed gamma in hindsight, without the time of the
    policy's own decisions: that depends on the machine and on nothing that is compared here."""


@dataclass(frozen=True)
class Replayed:
    """A file of traces with the times to replay it with."""

    traces: Traces
    first: int
    """Number of its first text among all."""
    backend: str
    times: StepTimes


def cross_validate(
    rows: Rows,
    fold: NDArray[np.int64],
    replayed: Sequence[Replayed],
    seed: int,
    done: Callable[[], None] = lambda: None,
) -> list[Validation]:
    """Validate every set of `SIGNALS`; `done` is told of every fitted model (`len(SIGNALS) * FOLDS`)."""
    results = []
    for name, features in SIGNALS.items():
        seen = _only(rows, features)
        probabilities = np.zeros_like(rows.labels)
        models = []
        for number in range(FOLDS):
            held_out = fold[rows.texts] == number
            models.append(fit(seen.where(~held_out), seed))
            probabilities[held_out] = models[-1].probabilities(seen.features[held_out])
            done()
        ratios = [_ratio(models, fold, part) for part in replayed]
        results.append(Validation(name, calibrate(rows, probabilities), ratios))
    return results


def _only(rows: Rows, features: Sequence[str]) -> Rows:
    """Return the rows with every other feature 0: the fit then gives it no weight."""
    hidden = [place for place, name in enumerate(FEATURES) if name not in features]
    values = rows.features.copy()
    values[:, hidden] = 0
    return replace(rows, features=values)


def _ratio(models: Sequence[Weights], fold: NDArray[np.int64], part: Replayed) -> float:
    texts, times = part.traces.texts, part.times
    of_text = fold[part.first : part.first + len(texts)]
    runs: list[Run] = []
    for number, model in enumerate(models):
        with _stopper(model) as stopper:
            held_out = [text for text, its in zip(texts, of_text, strict=True) if its == number]
            runs += replay(held_out, Adaptive(stopper, times), times)
    return model_rate(runs) / best_fixed_rate(texts, times)


def best_fixed_rate(texts: Sequence[Text], times: StepTimes) -> float:
    """Return the tokens per second of the fixed gamma that is best for the texts in hindsight."""
    return max(model_rate(replay(texts, Fixed(gamma), times)) for gamma in range(LOOKAHEAD + 1))


def model_rate(runs: Sequence[Run]) -> float:
    """Return tokens per second without the policy's own time."""
    return rate([replace(run, policy_ms=0.0) for run in runs])


@contextmanager
def _stopper(weights: Weights) -> Iterator[Stopper]:
    """Yield the model as the runtime would have it, from a graph in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        files = {STOPPER_FILE: build_stopper(weights, "cross-validation")}
        for name, data in {**files, MANIFEST_FILE: manifest(STOPPER_NAME, files)}.items():
            (Path(folder) / name).write_bytes(data)
        yield Stopper(Path(folder))
