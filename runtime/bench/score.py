"""From timed runs to tokens per second, with bootstrap intervals over the prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median

import numpy as np
from numpy.typing import NDArray

from runtime.prompts import OVERALL

RESAMPLES = 10_000
SEED = 0
Interval = tuple[float, float]


@dataclass
class Runs:
    """The timed runs of one contender on one prompt; one value a run in each list."""

    prompt: int
    """Its place in the prompts' file, from 0."""
    task: str
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """What a contender's runs amount to on some prompts.

    Intervals hold 95 % of bootstrap resamples of the prompts; None with a single prompt.
    """

    tokens_per_second: float
    """Tokens of all prompts over their seconds, of each prompt the median of its repeats."""
    interval: Interval | None
    ratio: float | None
    """To the fixed gamma that was fastest on the same prompts in the same run; None where none ran."""
    ratio_interval: Interval | None
    """Paired: both rates from the same resample, against that same gamma."""
    tokens_per_step: float
    mean_gamma: float


def by_task(runs: Iterable[Runs]) -> dict[str, list[Runs]]:
    """Return the runs of each task, and of all under "overall", which comes first."""
    runs = list(runs)
    tasks = dict.fromkeys(run.task for run in runs)
    return {OVERALL: runs, **{task: [run for run in runs if run.task == task] for task in tasks}}


def compare(runs: Mapping[str, Sequence[Runs]]) -> tuple[dict[str, str], dict[str, dict[str, Score]]]:
    """Score contenders, given contender → runs of each prompt.

    Returns:
        Task → the fixed gamma that was fastest ("none" is gamma 0; empty where no fixed gamma ran), and contender →
        task → score.
    """
    groups = {name: by_task(own) for name, own in runs.items()}
    fixed = [name for name in runs if name == "none" or name.startswith("fixed:")]
    tasks = next(iter(groups.values()))
    best = {task: max(fixed, key=lambda name: rate(groups[name][task])) for task in tasks} if fixed else {}
    scores = {
        name: {task: score(own, groups[best[task]][task] if best else None) for task, own in group.items()}
        for name, group in groups.items()
    }
    return best, scores


def rate(runs: Sequence[Runs]) -> float:
    """Return tokens per second; see `Score`."""
    tokens, seconds = _totals(runs)
    return float(tokens.sum() / seconds.sum())


def score(runs: Sequence[Runs], best: Sequence[Runs] | None) -> Score:
    """Score runs against those of the best fixed gamma on the same prompts, in the same order."""
    rates = _resampled(runs)
    ratios = None if best is None else rates / _resampled(best)
    steps = sum(sum(run.steps) for run in runs)
    return Score(
        tokens_per_second=rate(runs),
        interval=_interval(rates, len(runs)),
        ratio=None if best is None else rate(runs) / rate(best),
        ratio_interval=None if ratios is None else _interval(ratios, len(runs)),
        tokens_per_step=sum(sum(run.tokens) for run in runs) / steps,
        mean_gamma=sum(sum(run.drafted) for run in runs) / steps,
    )


def _totals(runs: Sequence[Runs]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return tokens and seconds of each prompt, float64 `[prompts]`."""
    return np.array([median(run.tokens) for run in runs], float), np.array([median(run.seconds) for run in runs], float)


def _resampled(runs: Sequence[Runs]) -> NDArray[np.float64]:
    """Return the rate of every resample, float64 `[RESAMPLES]`; the same resamples for all contenders."""
    tokens, seconds = _totals(runs)
    drawn = _resamples(len(runs))
    rates: NDArray[np.float64] = (drawn @ tokens) / (drawn @ seconds)
    return rates


@lru_cache(maxsize=8)
def _resamples(prompts: int) -> NDArray[np.float64]:
    """Return how often each resample holds each prompt, float64 `[RESAMPLES, prompts]`."""
    drawn = np.random.default_rng(SEED).integers(prompts, size=(RESAMPLES, prompts))
    places = drawn + prompts * np.arange(RESAMPLES)[:, None]
    return np.bincount(places.ravel(), minlength=RESAMPLES * prompts).reshape(RESAMPLES, prompts).astype(np.float64)


def _interval(values: NDArray[np.float64], prompts: int) -> Interval | None:
    if prompts < 2:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
