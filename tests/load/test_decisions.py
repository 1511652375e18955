"""Decisions without end: flat memory; one selector for many threads and processes decides as it does alone."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from runtime import GammaSelector
from runtime.decision.latency import random_signals
from runtime.policies.guarded import Guarded
from runtime.policies.policy import Drafted, Outcome, TokenSignals
from runtime.policies.registry import make_policy
from tests.counts import write_counts
from tests.load.memory import growth
from tests.load.sizes import COMMAND, DECISIONS, LONG, SUITE
from tests.replay.tiny import TIMES

THREADS, PROCESSES = 32, 8
MOST_GROWTH = 8_000_000
"""Bytes: what the allocators may move; a leak of nine bytes a decision is more in a long run."""
MOST_TRACED = 32_000
"""Bytes, over a tenth of the decisions: a leak of one object a decision is more in a short run."""

tried: Counter[str] = Counter()
failed: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _counted() -> Iterator[None]:
    yield
    write_counts(f"{SUITE}-decisions", COMMAND, tried, failed.total(), "decisions", failed.total())


@pytest.fixture(scope="module")
def selector() -> GammaSelector:
    return GammaSelector()


def test_memory_of_the_selector(selector: GammaSelector) -> None:
    rows = random_signals(1000).tolist()

    def decide(count: int) -> None:
        for i in range(count // 2):
            selector.select(rows[i % 1000], "nf4")
            selector.select(rows[i % 1000], i % 3, (1, 3, 5)[: 1 + i % 3], (1.0, 2.0, 3.0)[: 1 + i % 3])

    grown = growth(decide, DECISIONS)
    tried["selector"] += DECISIONS
    assert grown.resident < MOST_GROWTH
    assert grown.traced < MOST_TRACED


@pytest.mark.parametrize("name", ["adaptive", "speckv", "speckv-cost", "bandit", "adaedl"])
def test_memory_of_a_policy(name: str) -> None:
    """As a loop asks it: through its guard, text after text."""
    policy, chooser = make_policy(name, "fp16", TIMES), random.Random(0)
    tokens = [TokenSignals(chooser.uniform(0, 6), chooser.random(), 0.01) for _ in range(997)]
    amount = DECISIONS // 5

    def decide(count: int) -> None:
        asked = 0
        while asked < count:
            guarded = Guarded(policy)
            guarded.begin()
            for _ in range(100):  # steps of a text
                drafted = Drafted()
                while (goal := min(guarded.gamma(drafted), 16)) > drafted.count:
                    asked += 1
                    drafted.tokens += (tokens[(asked + i) % 997] for i in range(goal - drafted.count))
                asked += 1
                accepted = asked % (drafted.count + 1)
                guarded.observe(Outcome(drafted.count, accepted, 2.0, 0.5, 0.3, 1.0 + drafted.count, 4.0))
            assert guarded.policy is policy  # it has not failed

    grown = growth(decide, amount)
    tried[name] += amount
    assert grown.resident < MOST_GROWTH
    assert grown.traced < MOST_TRACED


Question = tuple[list[float], int, tuple[int, ...] | None, tuple[float, ...] | None]


def questions(count: int) -> list[Question]:
    """Decisions of every kind, the published candidates and others of several lengths mixed."""
    chooser, asked = random.Random(1), []
    for signals in random_signals(count).tolist():
        k = chooser.randrange(6)
        lengths = tuple(sorted(chooser.sample(range(20), k))) if k else None
        costs = tuple(chooser.uniform(1, 9) for _ in range(k)) if k and chooser.random() < 0.5 else None
        asked.append((signals, chooser.randrange(3), lengths, costs))
    return asked


def answers(selector: GammaSelector, asked: list[Question]) -> list[Any]:
    return [(d.gamma, d.expected_tokens.tobytes()) for d in (selector.select(*question) for question in asked)]


def test_one_selector_in_many_threads(selector: GammaSelector) -> None:
    asked = questions(500)
    alone = answers(selector, asked)
    rounds = max(1, DECISIONS // THREADS // len(asked))

    def work(seed: int) -> int:
        order, wrong = list(range(len(asked))), 0
        for turn in range(rounds):
            random.Random(f"{seed} {turn}").shuffle(order)
            given = answers(selector, [asked[i] for i in order])
            wrong += sum(answer != alone[i] for answer, i in zip(given, order, strict=True))
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = sum(pool.map(work, range(THREADS)))
    tried["32 threads"] += THREADS * rounds * len(asked)
    failed["32 threads"] += wrong
    assert not wrong


def _answers_of_another_process(selector: GammaSelector, number: int) -> list[Any]:
    return answers(selector, questions(500)[number::2])


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_one_selector_in_many_processes(start: str, selector: GammaSelector) -> None:
    """Sent to each, or inherited, as a server does that forks its workers after it has loaded."""
    if start == "fork" and not LONG and "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork here")
    alone = answers(selector, questions(500))
    with multiprocessing.get_context(start).Pool(PROCESSES) as pool:
        given = pool.starmap(_answers_of_another_process, [(selector, i % 2) for i in range(PROCESSES)], 1)
    wrong = sum(
        answer != right for i, part in enumerate(given) for answer, right in zip(part, alone[i % 2 :: 2], strict=True)
    )
    tried[f"8 processes, {start}"] += sum(map(len, given))
    failed[f"8 processes, {start}"] += wrong
    assert not wrong
    assert len(given) == PROCESSES


def _inherited(number: int) -> list[Any]:
    assert _SHARED is not None
    return answers(_SHARED, questions(200)[number % 2 :: 2])


_SHARED: GammaSelector | None = None


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_selector_that_was_used_before_the_fork(selector: GammaSelector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very object, its session and buffers copied by the kernel."""
    monkeypatch.setattr("tests.load.test_decisions._SHARED", selector)
    alone = answers(selector, questions(200))
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        given = pool.map(_inherited, range(PROCESSES), 1)
    for number, part in enumerate(given):
        assert part == alone[number % 2 :: 2]
    tried["8 forked processes"] += sum(map(len, given))


def test_a_batch_decides_as_its_rows_in_a_long_run(selector: GammaSelector) -> None:
    rows = random_signals(DECISIONS // 10)
    whole = selector.select_batch(rows, "int8").gamma
    parts = np.concatenate([selector.select_batch(part, "int8").gamma for part in np.array_split(rows, 7)])
    tried["batches"] += len(rows)
    failed["batches"] += int((whole != parts).sum())
    np.testing.assert_array_equal(whole, parts)
