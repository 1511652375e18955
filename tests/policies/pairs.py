"""Texts of pairs that agree always, never, or as often as a real pair does, with signals of real distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.policies.fixed import Fixed
from runtime.policies.policy import TokenSignals
from runtime.policies.step_times import StepTimes
from runtime.replay.replay import Run, replay
from runtime.replay.traces import LOOKAHEAD, Text

VOCABULARY = 64
USUAL = (1.0, 6.0)
"""Logits are normal with a deviation from this range: top-1 from 0.12 to 0.97, its median 0.45."""
SURE, UNSURE = (15.0, 30.0), (0.5, 2.0)

GRAPH = StepTimes({1: 0.5, 2: 0.6}, {1: 3.2, 2: 3.8, 3: 3.9, 17: 4.1})
"""Milliseconds as CUDA graphs have them: to verify more costs next to nothing, to draft a token a sixth of a step."""
COMPILED = StepTimes({1: 0.25}, {1: 1.5, 5: 2.0})


def text(positions: int, accepted: int, seed: int, deviations: tuple[float, float] = USUAL) -> Text:
    """Return a text of a pair that agrees on `accepted` tokens everywhere."""
    tokens = _signals(positions * LOOKAHEAD, seed, deviations)
    rollouts = [tokens[place * LOOKAHEAD : (place + 1) * LOOKAHEAD] for place in range(positions)]
    return Text("0_code", "code", rollouts, [min(accepted, positions - place) for place in range(positions)])


def usual_text(positions: int, seed: int) -> Text:
    """Return a text on which a draft that gives its token probability p is right with 1 − (1 − p)²."""
    tokens = _signals(positions + LOOKAHEAD, seed, USUAL)
    uniform = np.random.default_rng(seed + 1000).random(len(tokens))
    right = [u >= (1 - token.top1) ** 2 for u, token in zip(uniform, tokens, strict=True)]
    runs = [[*right[place : place + LOOKAHEAD], False] for place in range(positions)]
    return Text(
        "0_chat",
        "chat",
        [tokens[place : place + LOOKAHEAD] for place in range(positions)],
        [run.index(False) for run in runs],
    )


def _signals(count: int, seed: int, deviations: tuple[float, float]) -> list[TokenSignals]:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((count, VOCABULARY)) * random.uniform(*deviations, (count, 1))
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    entropies = -(p * np.log2(np.maximum(p, 1e-30))).sum(1)
    second, first = np.sort(p, axis=1)[:, -2:].T
    return [TokenSignals(*row) for row in np.stack([entropies, first, second], 1).tolist()]


def rate(runs: Sequence[Run]) -> float:
    """Tokens per millisecond, without the policy's own time."""
    return sum(run.tokens for run in runs) / sum(run.model_ms for run in runs)


def best_fixed(texts: Sequence[Text], times: StepTimes) -> float:
    """The rate of the best fixed gamma in hindsight."""
    return max(rate(replay(texts, Fixed(gamma), times)) for gamma in range(LOOKAHEAD + 1))


def scaled(times: StepTimes, draft: float, target: float) -> StepTimes:
    """The same machine, its draft and its target slower by these factors."""
    return StepTimes(
        {width: draft * ms for width, ms in times.draft.items()},
        {width: target * ms for width, ms in times.target.items()},
    )
