"""Training rows: what the policy would have known at each decision of a text, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.policies.policy import TokenSignals
from runtime.replay.replay import step_outcome
from runtime.replay.traces import LOOKAHEAD, Text
from runtime.stopper.history import History
from runtime.stopper.progress import NOTHING, Progress

Floats = NDArray[np.float32]

PRODUCTS = (0.1, 0.7)
"""A text is walked with steps that end where the product of top-1 probabilities falls below a number from this range:
the model has to know every kind of history, not that of one policy."""
LONGER, PLAIN, MOSTLY_PLAIN = 0.05, 0.05, 0.6
"""Chance of a step that drafts all there is; of one that drafts nothing; and the latter's in a rarely drafting text."""
RARELY_DRAFTING = 0.15
"""Share of such texts."""


@dataclass(frozen=True)
class Rows:
    """`n` decisions: one after each number of drafted tokens of each step, as long as those before it stand.

    `features` `[n, FEATURES]`; `labels` `[n, 2]`, whether the last drafted token stands and whether the next one does;
    `weights` `[n, 2]`, 0 where there is no such token; `texts` int64 `[n]`, the number of the text.
    """

    features: Floats
    labels: Floats
    weights: Floats
    texts: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """Return the rows that are chosen, bool `[n]`."""
        return Rows(*(getattr(self, name)[chosen] for name in Rows.__annotations__))

    @staticmethod
    def join(parts: list[Rows]) -> Rows:
        """Return all parts' rows."""
        return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in Rows.__annotations__))


def text_rows(text: Text, number: int, history: History, random: np.random.Generator, weight: float = 1.0) -> Rows:
    """Walk a text with random step lengths and return its decisions; `history` goes on from where it is."""
    features, labels, weights = [], [], []
    behaviour = _Behaviour(random)
    position = 0
    history.begin()
    while position < text.positions:
        limit = min(text.positions - position - 1, LOOKAHEAD)
        accepted = min(text.accepted[position], limit)
        rollout = text.rollouts[position]
        context = history.features()
        for drafted, step in enumerate(_progress(rollout, min(accepted + 1, limit))):
            features.append((*context, *step))
            labels.append((accepted >= drafted, accepted > drafted))
            weights.append((weight * (drafted > 0), weight * (accepted >= drafted and drafted < limit)))
        gamma = behaviour.gamma(rollout, limit)
        outcome = step_outcome(text, position, gamma)
        history.observe(rollout[:gamma], outcome)
        position += outcome.tokens
    return Rows(
        np.asarray(features, np.float32),
        np.asarray(labels, np.float32),
        np.asarray(weights, np.float32),
        np.full(len(features), number),
    )


def _progress(rollout: list[TokenSignals], most: int) -> Iterator[tuple[float, ...]]:
    """Yield the step's features after 0 to `most` drafted tokens."""
    progress = Progress()
    yield NOTHING
    for token in rollout[:most]:
        yield progress.add(token)


class _Behaviour:
    """Random step lengths, of one temper per text."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.product = random.uniform(*PRODUCTS)
        self.plain = MOSTLY_PLAIN if random.random() < RARELY_DRAFTING else PLAIN

    def gamma(self, rollout: list[TokenSignals], limit: int) -> int:
        """Return how far a step drafts."""
        if self.random.random() < self.plain:
            return 0
        longer = self.random.random() < LONGER
        product, gamma = 1.0, 0
        while gamma < limit and (product >= self.product or longer):
            product *= rollout[gamma].top1
            gamma += 1
        return gamma
