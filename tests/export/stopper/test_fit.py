"""The fit: its folding, its seed, what it gives no weight, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.stopper import fit as fitting
from export.stopper.fit import HIDDEN, LEAST_DEVIATION, Weights, _Model, fit
from export.stopper.rows import Rows
from runtime.stopper.stopper import FEATURES


def rows(count: int, seed: int = 0, width: int = 5) -> Rows:
    """Rows whose outputs are logistic in the first two features; the others are noise of several scales."""
    random = np.random.default_rng(seed)
    features = (random.normal(3, 2, (count, width)) * 10.0 ** np.arange(-1, width - 1)).astype(np.float32)
    x = (features[:, :2] / [0.1, 1] - 3) / 2
    chances = 1 / (1 + np.exp(-np.stack([x[:, 0] + 0.5, x[:, 1] - x[:, 0]], 1)))
    labels = (random.random((count, 2)) < chances).astype(np.float32)
    return Rows(features, labels, np.ones((count, 2), np.float32), np.arange(count))


def same(one: Weights, other: Weights) -> bool:
    return all(np.array_equal(*pair) for pair in zip(vars(one).values(), vars(other).values(), strict=True))


def test_the_folded_weights_are_the_module_on_standardised_features() -> None:
    model = _Model(len(FEATURES), torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        model.linear.normal_()
        model.b1.normal_()
        model.b2.normal_()
    random = np.random.default_rng(0)
    mean, deviation = np.float32([random.normal(0, 3, len(FEATURES)), random.uniform(0.05, 4, len(FEATURES))])
    folded = model.folded(mean, deviation)
    assert [array.shape for array in vars(folded).values()] == [(37, HIDDEN + 4), (HIDDEN + 4,), (HIDDEN + 4, 2), (2,)]
    x = (mean + deviation * random.normal(0, 1, (500, len(FEATURES)))).astype(np.float32)
    with torch.no_grad():
        expected = torch.sigmoid(model(torch.from_numpy((x.astype(np.float64) - mean) / deviation))).numpy()
    # The weights are float32, which the division by small deviations shows.
    np.testing.assert_allclose(folded.probabilities(x), expected, rtol=0, atol=3e-5)


def test_one_seed_gives_one_model() -> None:
    data = rows(3000)
    first = fit(data, 7)
    torch.manual_seed(1)  # whatever else was drawn before
    assert same(fit(data, 7), first)
    assert not same(fit(data, 8), first)


def test_it_learns_the_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "EPOCHS", 40)
    data, other = rows(20_000), rows(5000, seed=1)
    found = fit(data, 0).probabilities(other.features)
    for output in (0, 1):
        for low in np.arange(0, 1, 0.2):
            chosen = (found[:, output] >= low) & (found[:, output] < low + 0.2)
            if chosen.sum() > 300:
                assert found[chosen, output].mean() == pytest.approx(other.labels[chosen, output].mean(), abs=0.06)
        assert (
            found[other.labels[:, output] == 1, output].mean()
            > found[other.labels[:, output] == 0, output].mean() + 0.1
        )


def test_decisions_without_weight_teach_nothing() -> None:
    data = rows(3000)
    data.weights[::3, 0] = 0
    data.weights[1::3, 1] = 0
    labels = np.where(data.weights == 0, 1 - data.labels, data.labels)
    assert not np.array_equal(labels, data.labels)
    assert same(fit(data, 0), fit(Rows(data.features, labels, data.weights, data.texts), 0))


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.2, 1000.1])
def test_what_never_changed_has_no_weight(constant: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "EPOCHS", 1)
    monkeypatch.setattr(fitting, "BATCH_ROWS", 200_000)
    data = rows(600_000, width=3)  # as many as real traces give: float32 would lose the sum's last digits
    data.features[:, 2] = constant
    weights = fit(data, 0)
    assert not weights.W1[2].any()
    assert weights.W1[0].all()
    moved = data.features[:50].copy()
    moved[:, 2] += 5
    np.testing.assert_array_equal(weights.probabilities(moved), weights.probabilities(data.features[:50]))


def test_what_hardly_changes_does_not_blow_up() -> None:
    data = rows(3000)
    data.features[:, 4] = 0.5
    data.features[0, 4] += LEAST_DEVIATION
    assert not fit(data, 0).W1[4].any()
