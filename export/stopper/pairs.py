"""Pairs that the traces do not hold: worse and better ones, made by changing which tokens agree.

A model that has only met pairs that mostly agree believes in agreement whatever it is told of the past. These texts
keep the draft's signals and change the outcomes, so that the model learns to lean on the history where the two part.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from runtime.replay.traces import LOOKAHEAD, Text, Verified

DISAGREEMENTS = (0.15, 0.3, 0.5, 0.8, 1.0)
"""Shares of the positions that are made to disagree."""
CHANGES = 0.6
"""Share of the texts that change from or to what they were, at a random place."""
APART = (0.6, 1.0)
"""Range of the total variation distance where a disagreement was made."""


def worse(text: Text, random: np.random.Generator) -> Text:
    """Return the text with a random share of the positions disagreeing, in a part of the text or all of it."""
    flips = random.random(text.positions) < random.choice(DISAGREEMENTS)
    cut = int(random.integers(0, text.positions))
    change = random.random()
    if change < CHANGES / 2:
        flips[cut:] = False
    elif change < CHANGES:
        flips[:cut] = False
    accepted = list(text.accepted)
    for place in np.flatnonzero(flips).tolist():
        for start in range(max(0, place - LOOKAHEAD + 1), place + 1):
            accepted[start] = min(accepted[start], place - start)
    return dataclasses.replace(text, accepted=accepted, verified=_apart(text, flips, random))


def better(text: Text, random: np.random.Generator) -> Text:
    """Return the text with every token agreeing, from the start or from a random place on."""
    cut = int(random.integers(0, text.positions)) if random.random() < 0.5 else 0
    # A rollout from before is stopped where it was, unless that lies after: then nothing stops it.
    accepted = [count if start + count < cut else LOOKAHEAD for start, count in enumerate(text.accepted)]
    return dataclasses.replace(text, accepted=accepted)


def unverified(text: Text) -> Text:
    """Return the text as an engine knows it that does not report the target's distributions."""
    return dataclasses.replace(text, verified=None)


def _apart(text: Text, flips: np.ndarray, random: np.random.Generator) -> list[Verified] | None:
    """The distance at a place that was made to disagree is a large one; row i is of the token before position i."""
    if text.verified is None:
        return None
    rows = list(text.verified)
    for place in np.flatnonzero(flips[:-1]).tolist():
        row = rows[place + 1]
        rows[place + 1] = row._replace(distance=max(row.distance, random.uniform(*APART)))
    return rows
