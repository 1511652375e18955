"""Training rows against a second walk of the same text, and one worked out by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from export.stopper import rows as walking
from export.stopper.pairs import unverified
from export.stopper.rows import Rows, text_rows
from runtime.policies.policy import Outcome, TokenSignals
from runtime.replay.traces import LOOKAHEAD, Text
from runtime.stopper import history
from runtime.stopper.history import History
from runtime.stopper.progress import NOTHING, Progress
from runtime.stopper.stopper import FEATURES
from tests.export.stopper.traces import made_texts
from tests.replay import tiny

CONTEXT = len(history.NAMES)


def named(row: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, row.tolist(), strict=True))


def walk(text: Text, seed: int = 0, known: History | None = None, weight: float = 1.0) -> Rows:
    return text_rows(text, 3, known or History(), np.random.default_rng(seed), weight)


def steps_of(found: Rows) -> list[np.ndarray]:
    """Row numbers of each step: a row with nothing drafted begins one."""
    starts = np.flatnonzero(found.features[:, FEATURES.index("nothing_drafted")])
    return np.split(np.arange(len(found.features)), starts[1:])


def test_a_text_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    gammas = iter([2, 0, 1, 3])
    monkeypatch.setattr(walking._Behaviour, "gamma", lambda *given: min(next(gammas), given[2]))
    found = walk(tiny.text([1, 0, 4, 3, 9, 9]), weight=0.5)
    # Position 0: one of two stands, on to 2. There nothing is drafted, on to 3. Position 3 could take both tokens that
    # the end leaves room for, one is drafted, on to 5: nothing to decide.
    assert found.labels.tolist() == [
        [1, 1], [1, 0], [0, 0],
        [1, 1], [1, 1], [1, 1], [1, 0],
        [1, 1], [1, 1], [1, 0],
        [1, 0],
    ]  # fmt: skip
    assert found.weights.tolist() == [
        [0, 0.5], [0.5, 0.5], [0.5, 0],
        [0, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0],
        [0, 0.5], [0.5, 0.5], [0.5, 0],
        [0, 0],
    ]  # fmt: skip
    assert found.texts.tolist() == [3] * 11
    begun = [named(found.features[step[0]]) for step in steps_of(found)]
    assert [round(np.expm1(row["log_position"])) for row in begun] == [0, 2, 3, 5]
    assert [(row["was_rejected"], row["was_plain"], row["was_all_accepted"]) for row in begun[1:]] == [
        (1, 0, 0),
        (0, 1, 0),
        (0, 0, 1),
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("verified", [True, False])
def test_every_row_is_what_the_policy_would_have_known(tmp_path: Path, seed: int, verified: bool) -> None:
    (text,) = made_texts(tmp_path, prompts=1, seed=seed, positions=60)
    text = text if verified else unverified(text)
    found = walk(text, seed)
    known, position = History(), 0
    for step in steps_of(found):
        first = named(found.features[step[0]])
        assert round(np.expm1(first["log_position"])) == position
        np.testing.assert_allclose(found.features[step[0], :CONTEXT], known.features(), rtol=1e-6, atol=1e-6)
        room = min(text.positions - position - 1, LOOKAHEAD)
        stands = min(text.accepted[position], room)
        progress, drafted_so_far = Progress(), NOTHING
        assert len(step) == min(stands + 1, room) + 1  # a decision after every token up to the first rejected one
        for drafted, row in enumerate(step):
            if drafted:
                drafted_so_far = progress.add(text.rollouts[position][drafted - 1])
            np.testing.assert_array_equal(found.features[row, :CONTEXT], found.features[step[0], :CONTEXT])
            np.testing.assert_allclose(found.features[row, CONTEXT:], drafted_so_far, rtol=1e-6, atol=1e-6)
            accepted, following = drafted <= stands, drafted + 1 <= stands
            assert found.labels[row].tolist() == [accepted, following]
            # A token is judged if it is there and all before it stand.
            assert found.weights[row].tolist() == [drafted > 0, accepted and drafted + 1 <= room]
        if step[-1] + 1 < len(found.features):
            position = go_on(text, position, named(found.features[step[-1] + 1]), known)
    assert position < text.positions


def go_on(text: Text, position: int, following: dict[str, float], known: History) -> int:
    """Take the step that the next row's history tells of; return the next position."""
    after = round(np.expm1(following["log_position"]))
    accepted = after - position - 1
    if following["was_plain"]:
        gamma = 0
    else:
        gamma = accepted if following["was_all_accepted"] else max(accepted + 1, round(following["last_gamma"]))
    assert accepted == min(gamma, text.accepted[position])
    at = text.verified_before(after)
    distance = at.distance if accepted < gamma else float("nan")
    known.observe(text.rollouts[position][:gamma], Outcome(gamma, accepted, at.entropy, at.top1, distance))
    return after


def test_a_given_history_goes_on(tmp_path: Path) -> None:
    one, other = made_texts(tmp_path, prompts=2)
    known = History()
    walk(one, known=known)
    before = dict(zip(history.NAMES, known.features(), strict=True))
    first = named(walk(other, known=known).features[0])
    assert first["accepted_pair"] == pytest.approx(before["accepted_pair"])
    assert first["log_position"] == 0
    assert named(walk(other).features[0])["accepted_pair"] != first["accepted_pair"]


def test_the_walks_meet_every_kind_of_history(tmp_path: Path) -> None:
    parts = [walk(text, seed) for seed, text in enumerate(made_texts(tmp_path, prompts=60, positions=60))]
    begun = Rows.join(parts).features
    begun = begun[begun[:, FEATURES.index("nothing_drafted")] == 1]
    kinds = ("was_rejected", "was_all_accepted", "was_plain")
    shares = {name: begun[:, FEATURES.index(name)].mean() for name in kinds}
    assert min(shares.values()) > 0.05
    lengths = Counter(begun[:, FEATURES.index("last_gamma")].tolist())
    assert set(lengths) == set(range(1, 9))  # longer than eight counts as eight


def test_steps_end_where_the_product_falls_below_the_texts_own_number() -> None:
    rollout = [TokenSignals(1.0, 0.5, 0.2)] * LOOKAHEAD
    seen = set()
    for seed in range(300):
        behaviour = walking._Behaviour(np.random.default_rng(seed))
        assert walking.PRODUCTS[0] <= behaviour.product <= walking.PRODUCTS[1]
        usual = next(gamma for gamma in range(1, 9) if 0.5**gamma < behaviour.product)
        drawn = Counter(behaviour.gamma(rollout, LOOKAHEAD) for _ in range(30))
        assert set(drawn) <= {0, usual, LOOKAHEAD}
        seen |= set(drawn)
        assert set(Counter(behaviour.gamma(rollout, 1) for _ in range(5))) <= {0, 1}
    assert seen == {0, 1, 2, 3, 4, LOOKAHEAD}


def test_the_same_generator_walks_the_same_way(tmp_path: Path) -> None:
    (text,) = made_texts(tmp_path, prompts=1, positions=60)
    assert np.array_equal(walk(text, 1).features, walk(text, 1).features)
    assert not np.array_equal(walk(text, 1).features, walk(text, 2).features)


def test_where_and_join() -> None:
    parts = [walk(tiny.text([2, 0, 1]), seed) for seed in range(3)]
    joined = Rows.join(parts)
    assert len(joined.features) == sum(len(part.features) for part in parts)
    chosen = joined.weights[:, 1] > 0
    for name, array in vars(joined.where(chosen)).items():
        np.testing.assert_array_equal(array, getattr(joined, name)[chosen])
