"""Tokens per second, ratios and intervals from runs written by hand."""

from __future__ import annotations

import pytest

from runtime.bench.score import Runs, compare, rate, score


def runs(seconds: list[list[float]], tokens: int = 10, tasks: str = "xxyy") -> list[Runs]:
    return [
        Runs(i, task, own, [tokens] * len(own), [5] * len(own), [8] * len(own))
        for i, (task, own) in enumerate(zip(tasks, seconds, strict=False))
    ]


def test_a_rate_is_all_tokens_over_the_medians() -> None:
    own = runs([[1, 9, 2], [4, 3, 100]])
    assert rate(own) == 20 / (2 + 4)
    scored = score(own, None)
    assert (scored.tokens_per_step, scored.mean_gamma) == (2, 1.6)
    assert scored.ratio is scored.ratio_interval is None


def test_ratios_are_paired_over_the_prompts() -> None:
    best = [[1.0], [2.0], [4.0], [8.0]]
    scored = score(runs([[s / 1.1 for s in own] for own in best]), runs(best))
    assert scored.ratio == pytest.approx(1.1)
    assert scored.ratio_interval == pytest.approx((1.1, 1.1))  # though the rates themselves are spread widely
    assert scored.interval is not None
    low, high = scored.interval
    assert low < scored.tokens_per_second < high
    assert low >= 10 / 8 * 1.1 - 1e-9
    assert high <= 10 * 1.1 + 1e-9


def test_one_prompt_has_no_interval() -> None:
    scored = score(runs([[1.0]]), runs([[2.0]]))
    assert (scored.interval, scored.ratio, scored.ratio_interval) == (None, 2, None)


def test_the_best_fixed_gamma_is_another_for_every_task() -> None:
    best, scores = compare(
        {
            "transformers": runs([[0.1]] * 4),
            "none": runs([[1], [1], [4], [4]]),
            "fixed:2": runs([[2], [2], [1], [1]]),
            "adaptive": runs([[1], [1], [1], [1]]),
        }
    )
    assert best == {"overall": "fixed:2", "x": "none", "y": "fixed:2"}
    assert scores["adaptive"]["overall"].ratio == 6 / 4
    assert scores["adaptive"]["x"].ratio == scores["adaptive"]["y"].ratio == 1
    assert scores["none"]["y"].ratio == 0.25


def test_without_a_fixed_gamma_there_is_no_ratio() -> None:
    best, scores = compare({"transformers": runs([[1], [1], [1], [1]])})
    assert best == {}
    assert scores["transformers"]["overall"].ratio is None
