"""What a report says, as numbers: the page is drawn from these, and `replay.json` holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from runtime.policies.fixed import Fixed
from runtime.prompts import OVERALL
from runtime.replay.comparison import Replays, Score, score
from runtime.replay.replay import Run
from runtime.replay.traces import Text
from runtime.report.acceptance import Acceptance, acceptance_by_task
from runtime.report.bootstrap import Interval, Resamples
from runtime.report.reliability import Reliability
from runtime.report.sources import Input

FORMAT_VERSION = 2
"""1 had no tokens in the steps of a course."""

HIGHLIGHTED, PUBLISHED, ORACLE = "adaptive", "speckv", "oracle"
"""Policies that the report singles out where they take part: this project's, the paper's, and hindsight itself."""


@dataclass(frozen=True)
class PolicyFigures:
    """What one policy amounted to."""

    name: str
    tokens_per_second: Interval
    ratio: Interval
    """To the fixed gamma that is best for all texts in hindsight."""
    task_ratios: dict[str, float]
    """To the fixed gamma that is best for the task in hindsight."""
    tokens_per_step: float
    mean_gamma: float
    policy_us: float
    """Measured processor time of the policy's own decisions, microseconds a step."""
    policy_share: float
    """Part of the time that went into them, in [0, 1]."""


@dataclass(frozen=True)
class FixedGamma:
    """What one fixed gamma amounted to."""

    gamma: int
    tokens_per_second: float
    tokens_per_step: float


@dataclass(frozen=True)
class Course:
    """One output under several policies, step by step."""

    key: str
    accepted: list[int]
    """Per position, how many drafted tokens the target would accept, in [0, 16]."""
    steps: dict[str, list[tuple[int, int, int]]]
    """Policy → (gamma, accepted, tokens) of each step."""


@dataclass(frozen=True)
class Replayed:
    """One file of traces, replayed."""

    precision: str
    traces: str
    """The file's name."""
    prompts: int
    tokens: int
    best_fixed: dict[str, int]
    """Task, or "overall" → the best gamma of 0 to 16 in hindsight."""
    fixed: list[FixedGamma]
    policies: list[PolicyFigures]
    """As they were asked for, and the best fixed gamma."""
    acceptance: dict[str, Acceptance]
    """By task, and "overall"."""
    course: Course

    @property
    def best_fixed_name(self) -> str:
        """What the best fixed gamma is called as a policy."""
        return Fixed(self.best_fixed[OVERALL]).name

    @property
    def best_fixed_policy(self) -> PolicyFigures:
        """The best fixed gamma's figures."""
        return next(policy for policy in self.policies if policy.name == self.best_fixed_name)

    @property
    def tasks(self) -> list[str]:
        """The tasks of the prompts, "overall" left out."""
        return [task for task in self.best_fixed if task != OVERALL]

    def policy(self, name: str) -> PolicyFigures | None:
        """Return the policy called `name`, where it took part."""
        return next((policy for policy in self.policies if policy.name == name), None)

    @property
    def featured(self) -> PolicyFigures | None:
        """This project's policy where it took part, else the fastest that is neither fixed nor the oracle."""
        names = {policy.name: policy.tokens_per_second.value for policy in self.policies}
        name = featured(names)
        return self.policy(name) if name else None


@dataclass(frozen=True)
class Summary:
    """All that a report says."""

    made_by: str
    format_version: int
    command: str
    backend: str
    inputs: list[Input]
    versions: dict[str, str]
    processor: str
    """Whose time the policies' own time is."""
    replays: list[Replayed]
    step_times: dict[str, dict[str, dict[int, float]]]
    """Model ("draft" or a precision) → backend → tokens in the call → milliseconds."""
    reliability: list[Reliability]
    predictor: dict[str, Any]
    """The paper's evaluation as the predictor's package holds it, `performance` in its config.json; empty without."""


def rate_text(tokens_per_second: float) -> str:
    """Return tokens per second with about three digits."""
    return f"{tokens_per_second:.0f}" if tokens_per_second >= 100 else f"{tokens_per_second:.1f}"


def summarise(traces: str, precision: str, texts: Sequence[Text], replays: Replays) -> Replayed:
    """Sum up the replays of one file of traces."""
    fixed = {Fixed(gamma).name: runs for gamma, runs in enumerate(replays.fixed)}
    runs = {
        **replays.policies,
        **fixed,
    }  # the same run for a fixed gamma wherever it is named: its ratio to itself is 1
    comparison = score(Replays(replays.fixed, runs))
    scores, best = comparison.scores, Fixed(comparison.best_fixed[OVERALL]).name
    resamples = Resamples(len(texts))
    return Replayed(
        precision=precision,
        traces=traces,
        prompts=len(texts),
        tokens=sum(text.positions for text in texts),
        best_fixed=comparison.best_fixed,
        fixed=[
            FixedGamma(gamma, scores[name][OVERALL].tokens_per_second, scores[name][OVERALL].tokens_per_step)
            for gamma, name in enumerate(fixed)
        ],
        policies=[
            _figures(name, runs[name], runs[best], scores[name], resamples)
            for name in dict.fromkeys([*replays.policies, best])
        ],
        acceptance=acceptance_by_task(texts),
        course=_course(texts, runs, _shown(replays.policies, scores, best)),
    )


def _figures(
    name: str, runs: Sequence[Run], best: Sequence[Run], scores: Mapping[str, Score], resamples: Resamples
) -> PolicyFigures:
    overall = scores[OVERALL]
    return PolicyFigures(
        name=name,
        tokens_per_second=resamples.rate(runs),
        ratio=resamples.ratio(runs, best),
        task_ratios={task: part.ratio for task, part in scores.items() if task != OVERALL},
        tokens_per_step=overall.tokens_per_step,
        mean_gamma=overall.mean_gamma,
        policy_us=1e3 * sum(run.policy_ms for run in runs) / overall.steps,
        policy_share=overall.policy_share,
    )


def featured(rates: Mapping[str, float]) -> str | None:
    """Return this project's policy where it took part, else the fastest that is neither fixed nor the oracle.

    Args:
        rates: policy → tokens per second.
    """
    choosing = [name for name in rates if name not in ("none", ORACLE) and not name.startswith("fixed:")]
    ours = [name for name in choosing if name.partition(":")[0] == HIGHLIGHTED]
    return max(ours or choosing, key=lambda name: rates[name], default=None)


def _shown(policies: Mapping[str, object], scores: Mapping[str, Mapping[str, Score]], best: str) -> list[str]:
    """Return the policies whose course is shown: the best fixed gamma, the paper's, the featured one, the oracle."""
    chosen = featured({name: scores[name][OVERALL].tokens_per_second for name in policies})
    wanted = (best, PUBLISHED, chosen, ORACLE)
    return [name for name in dict.fromkeys(wanted) if name and (name == best or name in policies)]


def _course(texts: Sequence[Text], runs: Mapping[str, Sequence[Run]], names: Sequence[str]) -> Course:
    """Follow the text of median acceptance among the longest half: long enough to see something, and typical."""
    longest = sorted(range(len(texts)), key=lambda index: -texts[index].positions)[: (len(texts) + 1) // 2]
    by_acceptance = sorted(longest, key=lambda index: fmean(texts[index].accepted))
    index = by_acceptance[len(by_acceptance) // 2]
    steps = {name: [(step.gamma, step.accepted, step.tokens) for step in runs[name][index].steps] for name in names}
    return Course(texts[index].key, texts[index].accepted, steps)
