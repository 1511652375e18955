"""The training set: whose texts, in which weights, in which folds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from export.stopper.dataset import BETTER_WEIGHT, WALKS, WORSE_WEIGHT, Traces, folds, training_rows
from runtime import SpeckvError
from runtime.stopper.stopper import FEATURES
from tests.export.stopper.traces import write_traces


@pytest.fixture
def files(tmp_path: Path) -> list[Traces]:
    """Two precisions of the same prompts, and the first few of them in a third file."""
    named = (("fp16", 14, True), ("nf4", 14, True), ("pilot_fp16", 5, False))
    return [
        Traces.read(write_traces(tmp_path / f"{name}.npz", prompts, seed, verified=verified))
        for seed, (name, prompts, verified) in enumerate(named)
    ]


def test_a_prompts_texts_share_a_fold_across_files(files: list[Traces]) -> None:
    found = folds(files, 6, seed=3)
    keys = [text.key for traces in files for text in traces.texts]
    assert found.shape == (33,)
    of_key = {key: {int(fold) for fold, its in zip(found, keys, strict=True) if its == key} for key in keys}
    assert all(len(its) == 1 for its in of_key.values())
    sizes = np.bincount([its.pop() for its in of_key.values()], minlength=6)
    assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(folds(files, 6, seed=3), found)
    assert not np.array_equal(folds(files, 6, seed=4), found)


def test_no_held_out_prompt_is_trained_on(files: list[Traces]) -> None:
    rows, fold = training_rows(files, seed=0), folds(files, 6, seed=0)
    keys = np.array([text.key for traces in files for text in traces.texts])
    for number in range(6):
        held_out = fold[rows.texts] == number
        assert held_out.any()
        assert set(keys[rows.texts[held_out]]).isdisjoint(keys[rows.texts[~held_out]])


def test_texts_are_numbered_through_the_files(files: list[Traces]) -> None:
    rows = training_rows(files, seed=0)
    assert set(rows.texts.tolist()) == set(range(33))
    columns = [FEATURES.index("entropy"), FEATURES.index("top2")]
    for number, text in enumerate([text for traces in files for text in traces.texts]):
        own = {np.float32([token.entropy, token.top2]).tobytes() for rollout in text.rollouts for token in rollout}
        drafted = rows.features[(rows.texts == number) & (rows.features[:, FEATURES.index("log_drafted")] > 0)]
        assert len(drafted) > 10
        assert {row.tobytes() for row in drafted[:, columns]} <= own


def test_every_text_is_walked_as_it_is_worse_and_better(files: list[Traces]) -> None:
    told = []
    rows = training_rows(files, seed=0, progress=lambda: told.append(1))
    assert len(told) == WALKS * 33
    assert set(np.unique(rows.weights).round(6)) == {0, np.float32(BETTER_WEIGHT), np.float32(WORSE_WEIGHT), 1}
    for text in range(33):
        of_text = rows.where(rows.texts == text)
        starts = of_text.features[:, FEATURES.index("log_position")] == 0
        begun = of_text.where(starts & (of_text.features[:, FEATURES.index("nothing_drafted")] == 1))
        usual, *altered = [np.isclose(begun.weights[:, 1], weight).sum() for weight in (1, WORSE_WEIGHT, BETTER_WEIGHT)]
        assert (usual, *altered) == (WALKS, WALKS, 1)
    better = rows.where(np.isclose(rows.weights, BETTER_WEIGHT).any(1))
    worse = rows.where(np.isclose(rows.weights, WORSE_WEIGHT).any(1))
    assert worse.labels.mean() < rows.labels.mean() < better.labels.mean()


def test_some_walks_know_nothing_of_the_target_and_some_of_the_pair(files: list[Traces]) -> None:
    rows = training_rows(files, seed=0)
    verified = rows.texts < 28
    later = rows.features[:, FEATURES.index("log_position")] > 0
    known = rows.features[:, FEATURES.index("target_known")]
    assert 0.5 < known[verified & later].mean() < 0.95
    assert not known[~verified].any()
    begun = (rows.features[:, FEATURES.index("nothing_drafted")] == 1) & ~later & (rows.weights[:, 1] == 1)
    fresh = rows.features[begun, FEATURES.index("accepted_pair")] == np.float32(0.6)
    assert 0.2 < fresh.mean() < 0.8


def test_one_seed_gives_the_same_rows(files: list[Traces]) -> None:
    one, again, other = (training_rows(files, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(array, getattr(again, name)) for name, array in vars(one).items())
    assert not np.array_equal(one.features, other.features)
    assert one.features.dtype == one.labels.dtype == one.weights.dtype == np.float32
    assert np.isfinite(one.features).all()


def test_a_file_is_known_by_its_bytes(files: list[Traces], tmp_path: Path) -> None:
    assert files[0].sha256 == hashlib.sha256((tmp_path / "fp16.npz").read_bytes()).hexdigest()
    with pytest.raises(SpeckvError, match=r"missing\.npz"):
        Traces.read(tmp_path / "missing.npz")
