"""Traces written by hand, or at random."""

from __future__ import annotations

import random

from runtime.policies.policy import TokenSignals
from runtime.policies.step_times import StepTimes
from runtime.replay.traces import LOOKAHEAD, Text

TIMES = StepTimes({1: 1.0, 2: 1.5}, {1: 4.0, 17: 20.0})
"""A step of gamma costs 4 + 2 gamma, and half more after a step whose drafted tokens were all accepted."""


def text(accepted: list[int], key: str = "0_code") -> Text:
    """Return a text whose draft is sure (top-1 0.9) of what will be accepted and unsure (0.1) of the rest."""
    rollouts = [[TokenSignals(1.0, 0.9 if i < n else 0.1, 0.05) for i in range(LOOKAHEAD)] for n in accepted]
    return Text(key, key.partition("_")[2], rollouts, accepted)


def random_texts(seed: int, count: int = 5) -> list[Text]:
    """Return texts of random lengths, acceptance and signals, cut off at their ends as a trace is."""
    chooser = random.Random(seed)
    texts = []
    for index in range(count):
        positions = chooser.randint(1, 80)
        accepted = [min(int(chooser.expovariate(0.4)), LOOKAHEAD, positions - p) for p in range(positions)]
        rollouts = [[_signals(chooser) for _ in range(LOOKAHEAD)] for _ in range(positions)]
        texts.append(
            Text(f"{index}_{'code' if index % 2 else 'chat'}", "code" if index % 2 else "chat", rollouts, accepted)
        )
    return texts


def _signals(chooser: random.Random) -> TokenSignals:
    top1 = chooser.random()
    return TokenSignals(chooser.uniform(0, 6), top1, chooser.uniform(0, min(top1, 1 - top1)))
