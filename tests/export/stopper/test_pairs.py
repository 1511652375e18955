"""Worse and better pairs: which tokens agree is changed consistently over all rollouts, and nothing else is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.stopper.pairs import APART, DISAGREEMENTS, better, unverified, worse
from runtime.policies.policy import TokenSignals
from runtime.replay.traces import LOOKAHEAD, Text, Verified
from tests.export.stopper.traces import made_texts


class Drawn(NamedTuple):
    """What a generator would have drawn."""

    flips: list[bool]
    cut: int
    change: float

    def random(self, size: int | None = None) -> object:
        return self.change if size is None else np.where(self.flips[:size], 0.0, 1.0)

    def choice(self, shares: tuple[float, ...]) -> float:
        assert shares == DISAGREEMENTS
        return 0.5

    def integers(self, low: int, high: int) -> int:
        return min(max(self.cut, low), high - 1)

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


@st.composite
def cases(draw: st.DrawFn) -> tuple[Text, Drawn]:
    accepted = draw(st.lists(st.integers(0, LOOKAHEAD), min_size=1, max_size=40))
    count = len(accepted)
    rollouts = [[TokenSignals(1.0, 0.5, 0.2)] * LOOKAHEAD] * count
    rows = [Verified(float(place), 0.5, 0.1) for place in range(count)]
    text = Text("0_code", "code", rollouts, accepted, draw(st.sampled_from([rows, None])))
    flips = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return text, Drawn(flips, draw(st.integers(0, count - 1)), draw(st.floats(0, 1, exclude_max=True)))


@given(cases())
def test_a_worse_pair_is_stopped_by_the_next_disagreement_ahead(case: tuple[Text, Drawn]) -> None:
    text, drawn = case
    if drawn.change < 0.3:
        disagree = {place for place in range(drawn.cut) if drawn.flips[place]}
    elif drawn.change < 0.6:
        disagree = {place for place in range(drawn.cut, text.positions) if drawn.flips[place]}
    else:
        disagree = {place for place in range(text.positions) if drawn.flips[place]}
    before = list(text.accepted)
    found = worse(text, drawn)  # type: ignore[arg-type]
    for start, accepted in enumerate(found.accepted):
        ahead = [place - start for place in disagree if place >= start]
        assert accepted == min([text.accepted[start], *ahead])
    assert (found.key, found.task, found.rollouts) == (text.key, text.task, text.rollouts)
    assert text.accepted == before
    assert (found.verified is None) == (text.verified is None)
    for place, (row, old) in enumerate(zip(found.verified or [], text.verified or [], strict=True)):
        assert row[:2] == old[:2]
        assert row.distance == (pytest.approx(sum(APART) / 2) if place - 1 in disagree else old.distance)


@given(cases())
def test_a_better_pair_is_stopped_by_no_token_from_its_place_on(case: tuple[Text, Drawn]) -> None:
    text, drawn = case
    found = better(text, drawn)  # type: ignore[arg-type]
    cut = drawn.cut if drawn.change < 0.5 else 0
    for start, (accepted, old) in enumerate(zip(found.accepted, text.accepted, strict=True)):
        # The first disagreement was at start + old; from the cut on there is none.
        assert accepted == (old if start + old < cut else LOOKAHEAD)
    assert replace(found, accepted=text.accepted) == text


def test_shares_and_changes_are_drawn_over_their_ranges(tmp_path: Path) -> None:
    (text,) = made_texts(tmp_path, prompts=1, positions=400)
    text = replace(text, accepted=[LOOKAHEAD] * text.positions)
    random = np.random.default_rng(0)
    altered = [worse(text, random) for _ in range(300)]
    shares = [sum(accepted < LOOKAHEAD for accepted in one.accepted) / text.positions for one in altered]
    assert min(shares) < 0.2
    assert max(shares) == 1
    assert any(one.accepted[-1] == one.accepted[-2] == LOOKAHEAD and one.accepted[0] < LOOKAHEAD for one in altered)
    assert any(one.accepted[0] == LOOKAHEAD and min(one.accepted[-20:]) == 0 for one in altered)
    improved = [better(replace(text, accepted=[0] * text.positions), random).accepted for _ in range(50)]
    assert any(min(one) == LOOKAHEAD for one in improved)
    assert any(one[0] == 0 and one[-1] == LOOKAHEAD for one in improved)


def test_without_the_targets_distributions_only_they_are_unknown(tmp_path: Path) -> None:
    (text,) = made_texts(tmp_path, prompts=1)
    hidden = unverified(text)
    assert text.verified
    assert all(math.isnan(value) for place in range(text.positions) for value in hidden.verified_before(place))
    assert replace(hidden, verified=text.verified) == text
