"""Policies side by side over the same traces: tokens per second, overall and per task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from runtime.policies.step_times import StepTimes
from runtime.prompts import OVERALL
from runtime.replay.replay import Run, replay
from runtime.replay.traces import LOOKAHEAD, Text


@dataclass(frozen=True)
class Score:
    """What some texts amounted to under one policy."""

    tokens: int
    steps: int
    tokens_per_second: float
    """Committed tokens over step times and the policy's own time."""
    ratio: float
    """To the tokens per second of the fixed gamma that is best for the same texts in hindsight."""
    tokens_per_step: float
    mean_gamma: float
    policy_share: float
    """Part of the time that went into the policy's decisions, in [0, 1]."""


@dataclass(frozen=True)
class Comparison:
    """Every policy on every task; the key "overall" is all texts."""

    best_fixed: dict[str, int]
    """Task → the best gamma of 0 to 16 in hindsight."""
    scores: dict[str, dict[str, Score]]
    """Policy → task → score."""


@dataclass(frozen=True)
class Replays:
    """The runs behind a comparison: one a text, in the texts' order."""

    fixed: list[list[Run]]
    """By gamma, 0 to 16."""
    policies: dict[str, list[Run]]


def compare(
    texts: Sequence[Text], policies: Iterable[Policy], times: StepTimes, progress: Callable[[], None] = lambda: None
) -> Comparison:
    """Replay every fixed gamma and every policy; `progress` is called after every text of each."""
    return score(replay_all(texts, policies, times, progress))


def replay_all(
    texts: Sequence[Text], policies: Iterable[Policy], times: StepTimes, progress: Callable[[], None] = lambda: None
) -> Replays:
    """Replay every fixed gamma and every policy; `progress` is called after every text of each."""
    fixed = [replay(texts, Fixed(gamma), times, progress) for gamma in range(LOOKAHEAD + 1)]
    return Replays(fixed, {policy.name: replay(texts, policy, times, progress) for policy in policies})


def score(replays: Replays) -> Comparison:
    """Score every policy overall and per task."""
    rates = [{task: rate(runs) for task, runs in _by_task(runs).items()} for runs in replays.fixed]
    best = {task: _first_highest([rate[task] for rate in rates]) for task in rates[0]}
    scores = {
        name: {task: _score(part, rates[best[task]][task]) for task, part in _by_task(runs).items()}
        for name, runs in replays.policies.items()
    }
    return Comparison(best, scores)


def _first_highest(values: list[float]) -> int:
    return values.index(max(values))


def _by_task(runs: list[Run]) -> dict[str, list[Run]]:
    tasks = dict.fromkeys(run.task for run in runs)
    return {OVERALL: runs, **{task: [run for run in runs if run.task == task] for task in tasks}}


def rate(runs: Sequence[Run]) -> float:
    """Tokens per second over all the runs' tokens and time (long texts weigh more)."""
    return 1e3 * sum(run.tokens for run in runs) / sum(run.model_ms + run.policy_ms for run in runs)


def _score(runs: list[Run], best_rate: float) -> Score:
    steps = [step for run in runs for step in run.steps]
    tokens = sum(run.tokens for run in runs)
    policy_ms = sum(run.policy_ms for run in runs)
    return Score(
        tokens=tokens,
        steps=len(steps),
        tokens_per_second=rate(runs),
        ratio=rate(runs) / best_rate,
        tokens_per_step=tokens / len(steps),
        mean_gamma=sum(step.gamma for step in steps) / len(steps),
        policy_share=policy_ms / (policy_ms + sum(run.model_ms for run in runs)),
    )
