"""Cross-validation: who is held out, which signals are hidden, and the ratio to the best fixed gamma."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.stopper import evaluation
from export.stopper.calibration import calibrate
from export.stopper.dataset import Traces, folds, training_rows
from export.stopper.evaluation import FOLDS, SIGNALS, VERIFIED, Replayed, best_fixed_rate, cross_validate, model_rate
from export.stopper.fit import Weights
from export.stopper.rows import Rows
from runtime.policies.adaptive import Adaptive
from runtime.policies.fixed import Fixed
from runtime.replay.replay import replay
from runtime.stopper import progress
from runtime.stopper.stopper import FEATURES, Stopper
from tests.export.stopper.traces import write_traces
from tests.replay.tiny import TIMES
from tests.stopper.packages import random_weights, write_package


@pytest.fixture
def files(tmp_path: Path) -> list[Traces]:
    return [
        Traces.read(write_traces(tmp_path / name, prompts, seed))
        for seed, (name, prompts) in enumerate((("fp16.npz", 9), ("nf4.npz", 7)))
    ]


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Rows]:
    """The rows that each model was fitted on; the model itself is the n-th random one."""
    seen: list[Rows] = []

    def fit(rows: Rows, seed: int) -> Weights:
        assert seed == 5
        seen.append(rows)
        return random_weights(len(seen))

    monkeypatch.setattr(evaluation, "fit", fit)
    return seen


def test_signals_are_nested_and_end_with_all() -> None:
    sets = [set(names) for names in SIGNALS.values()]
    assert sets[0] == set(progress.NAMES)
    assert sets[0] < sets[1] < sets[2] == set(FEATURES)
    assert sets[2] - sets[1] == set(VERIFIED)
    assert {"target_entropy", "target_known", "distance", "distance_long"} <= set(VERIFIED)
    assert not {name for name in sets[1] if "target" in name or "distance" in name}


def test_every_model_is_judged_on_prompts_that_it_never_saw(files: list[Traces], fitted: list[Rows]) -> None:
    rows, fold, told = training_rows(files, 0), folds(files, FOLDS, 0), []
    results = cross_validate(rows, fold, [], 5, lambda: told.append(1))
    assert len(told) == len(fitted) == len(SIGNALS) * FOLDS
    keys = np.array([text.key for traces in files for text in traces.texts])
    for place, (name, shown) in enumerate(SIGNALS.items()):
        hidden = [at for at, feature in enumerate(FEATURES) if feature not in shown]
        expected = np.zeros_like(rows.labels)
        for number in range(FOLDS):
            trained = fitted[place * FOLDS + number]
            held_out = rows.where(fold[rows.texts] == number)
            assert set(keys[trained.texts]) | set(keys[held_out.texts]) == set(keys)
            assert set(keys[trained.texts]).isdisjoint(keys[held_out.texts])
            assert not trained.features[:, hidden].any()
            seen = held_out.features.copy()
            seen[:, hidden] = 0
            expected[fold[rows.texts] == number] = random_weights(place * FOLDS + number + 1).probabilities(seen)
        assert results[place].signals == name
        assert results[place].calibration == calibrate(rows, expected)
    assert rows.features[:, FEATURES.index("accepted_long")].any()  # the given rows stay as they were


def test_each_texts_replay_is_by_the_model_that_never_saw_it(
    files: list[Traces], fitted: list[Rows], tmp_path: Path
) -> None:
    rows, fold = training_rows(files, 0), folds(files, FOLDS, 0)
    part = Replayed(files[1], 9, "eager", TIMES)
    found = cross_validate(rows, fold, [part], 5)[-1].ratios
    runs = []
    for number in range(FOLDS):
        stopper = Stopper(write_package(tmp_path / f"model{number}", random_weights(2 * FOLDS + number + 1)))
        own = [text for place, text in enumerate(files[1].texts) if fold[9 + place] == number]
        runs += replay(own, Adaptive(stopper, TIMES), TIMES)
    assert len(runs) == 7
    assert found == [pytest.approx(model_rate(runs) / best_fixed_rate(files[1].texts, TIMES))]
    assert fitted


def test_the_best_fixed_rate_is_the_highest_of_them(files: list[Traces]) -> None:
    texts = files[0].texts
    rates = []
    for gamma in range(17):
        runs = replay(texts, Fixed(gamma), TIMES)
        rates.append(1e3 * sum(run.tokens for run in runs) / sum(run.model_ms for run in runs))
    assert best_fixed_rate(texts, TIMES) == pytest.approx(max(rates))
    assert max(rates) > rates[0]
