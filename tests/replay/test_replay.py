"""Replay against hand-computed traces, closed forms, and conservation of tokens."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys

import pytest

from runtime.policies.confidence import Confidence
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Drafted, Outcome
from runtime.policies.registry import make_policy
from runtime.policies.step_times import StepTimes
from runtime.replay.comparison import compare
from runtime.replay.oracle import Oracle
from runtime.replay.replay import Run, replay
from tests.loop.fakes import Erratic
from tests.replay.tiny import TIMES, random_texts, text

NAMES = [
    "none",
    "fixed:1",
    "fixed:3",
    "fixed:16",
    "fixed:40",
    "speckv",
    "speckv-cost",
    "confidence",
    "heuristic",
    "svip",
    "adaedl",
    "specdec++",
    "throughput",
    "moving-average",
    "bandit",
    "adaptive",
]


class Alternate(Fixed):
    """Drafts a token in every second step."""

    def observe(self, outcome: Outcome) -> None:
        self.length = 0 if outcome.gamma else 1


class Thinking(Fixed):
    """Takes its time before it drafts at all."""

    def gamma(self, drafted: Drafted) -> int:
        if not drafted.count:
            sum(range(200_000))
        return super().gamma(drafted)


def counts(run: Run) -> list[tuple[int, int]]:
    return [(step.gamma, step.accepted) for step in run.steps]


def test_fixed_by_hand() -> None:
    (run,) = replay([text([2, 0, 9, 0, 3, 2, 1, 0])], Fixed(2), TIMES)
    # 0: both accepted, on to 3; 3: none, on to 4; 4: both, on to 7; 7: the last token is not worth drafting.
    assert counts(run) == [(2, 2), (2, 0), (2, 2), (0, 0)]
    # The second step catches up on two tokens; so would the fourth, if it drafted.
    assert run.model_ms == 8 + 8.5 + 8 + 4
    assert run.tokens == 8


def test_a_draft_that_was_not_asked_falls_behind() -> None:
    (run,) = replay([text([0] * 6)], Alternate(1), TIMES)
    assert [step.gamma for step in run.steps] == [1, 0, 1, 0, 1, 0]
    assert run.model_ms == 6 + 4 + 6.5 + 4 + 6.5 + 4  # two tokens behind after a plain step


def test_a_signal_rule_by_hand() -> None:
    (run,) = replay([text([2, 0, 9, 0, 0, 0])], Confidence(), TIMES)
    # Drafts the sure tokens and the first unsure one; limited by the end at position 4.
    assert counts(run) == [(3, 2), (1, 0), (1, 0), (0, 0)]


def test_oracle_drafts_what_is_accepted() -> None:
    (one, two) = replay([text([2, 0, 9, 0]), text([1, 0])], Oracle([text([2, 0, 9, 0]), text([1, 0])]), TIMES)
    assert counts(one) == [(2, 2), (0, 0)]
    assert counts(two) == [(1, 1)]


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_commits_every_position_once(name: str) -> None:
    for seed in range(4):
        texts = random_texts(seed)
        for traced, run in zip(texts, replay(texts, make_policy(name, "nf4", TIMES), TIMES), strict=True):
            assert run.tokens == traced.positions
            assert all(0 <= step.accepted <= step.gamma <= 16 for step in run.steps)
            assert run.model_ms >= 4 * len(run.steps)


def test_an_erratic_policy_commits_every_position_once() -> None:
    texts = random_texts(9)
    assert [run.tokens for run in replay(texts, Erratic(), TIMES)] == [traced.positions for traced in texts]


@pytest.mark.parametrize("gamma", [0, 1, 2, 5, 16])
def test_fixed_equals_its_closed_form(gamma: int) -> None:
    texts = random_texts(3, count=8)
    for traced, run in zip(texts, replay(texts, Fixed(gamma), TIMES), strict=True):
        starts, position = [], 0
        while position < traced.positions:
            starts.append(position)
            position += 1 + min(gamma, traced.accepted[position], traced.positions - position - 1)
        drafts = [min(gamma, traced.positions - start - 1) for start in starts]
        full = [n and traced.accepted[start] >= n for start, n in zip(starts, drafts, strict=True)]
        catching_up = sum(bool(was_full and n) for was_full, n in zip(full, drafts[1:], strict=False))
        assert [step.gamma for step in run.steps] == drafts
        assert run.model_ms == pytest.approx(4 * len(starts) + 2 * sum(drafts) + 0.5 * catching_up)


def test_a_policy_is_begun_once_a_text_and_told_every_outcome() -> None:
    class Recorder(Fixed):
        def __init__(self) -> None:
            super().__init__(2)
            self.calls: list[object] = []

        def begin(self) -> None:
            self.calls.append("begin")

        def observe(self, outcome: Outcome) -> None:
            self.calls.append(outcome)

    recorder = Recorder()
    runs = replay([text([1, 0, 0]), text([0])], recorder, TIMES)
    assert recorder.calls == ["begin", *runs[0].steps, "begin", *runs[1].steps]


def test_a_slow_policy_pays_for_its_decisions() -> None:
    class Slow(Fixed):
        def gamma(self, drafted: Drafted) -> int:
            sum(range(200_000))
            return super().gamma(drafted)

    texts = [text([0] * 20)]
    comparison = compare(texts, [Slow(0), Fixed(1)], TIMES)
    slow = comparison.scores["none"]["overall"]
    (run,) = replay(texts, Slow(0), TIMES)
    assert run.policy_ms > 20 * 0.2
    assert slow.policy_share > 0.02
    assert slow.tokens_per_second < 1000 / 4 * (1 - 0.02)
    assert slow.ratio < 1


def test_comparison_by_task() -> None:
    texts = [text([3, 2, 1, 0] * 5, "0_code"), text([0] * 12, "1_chat")]
    comparison = compare(texts, [Fixed(0), Fixed(3), Oracle(texts)], TIMES)
    assert comparison.best_fixed["chat"] == 0
    assert comparison.best_fixed["code"] == 3
    none, three = comparison.scores["none"], comparison.scores["fixed:3"]
    assert list(none) == ["overall", "code", "chat"]
    assert none["chat"].tokens_per_second == pytest.approx(250, rel=0.02)
    assert three["code"].ratio == pytest.approx(1, rel=0.02)
    assert (three["code"].tokens, three["code"].steps, three["code"].tokens_per_step) == (20, 5, 4.0)
    assert three["code"].mean_gamma == 3.0
    assert comparison.scores["oracle"]["overall"].ratio > 1


def test_replay_and_policies_import_no_torch() -> None:
    code = (
        "import sys, runtime.replay.comparison, runtime.replay.oracle, runtime.policies.registry, "
        "runtime.commands.replay; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_first_decision_costs_nothing_while_the_device_drafts_ahead() -> None:
    texts = [text([0] * 20)]
    slow = StepTimes({1: 1000.0}, {1: 4.0})  # a draft forward outlasts any decision
    (waiting,) = replay(texts, Thinking(1), slow)
    (hidden,) = replay(texts, Thinking(1), StepTimes(slow.draft, slow.target, ahead=True))
    # Before the first step, and after the last but one, which may draft nothing more, nothing is drafted ahead.
    assert hidden.policy_ms < waiting.policy_ms / 4
    assert hidden.model_ms == waiting.model_ms
    assert hidden.steps == waiting.steps


def test_a_draft_begun_ahead_for_nothing_costs_its_forward() -> None:
    times = StepTimes(TIMES.draft, TIMES.target, ahead=True)
    (alternating,) = replay([text([0] * 7)], Alternate(1), times)
    (known,) = replay([text([0] * 7)], Alternate(1), TIMES)
    drafted = [step.gamma for step in known.steps]
    for_nothing = sum(bool(n) and not following for n, following in itertools.pairwise(drafted))
    assert for_nothing
    assert alternating.model_ms == pytest.approx(known.model_ms + for_nothing * TIMES.draft_ms(2))


def test_an_oracles_loop_drafts_nothing_ahead_in_vain() -> None:
    texts = [text([2, 0, 9, 0, 0, 1, 0, 0])]
    (known,) = replay(texts, Oracle(texts), TIMES)
    (ahead,) = replay(texts, Oracle(texts), StepTimes(TIMES.draft, TIMES.target, ahead=True))
    assert any(step.gamma and not following.gamma for step, following in itertools.pairwise(known.steps))
    assert ahead.model_ms == known.model_ms


def test_what_one_answer_asks_for_is_drafted_in_a_chain() -> None:
    times = StepTimes(TIMES.draft, TIMES.target, ahead=True, chained=TIMES.draft_ms() / 4)
    texts = [text([9] * 8)]
    (at_once,) = replay(texts, Fixed(3), times)
    (one_by_one,) = replay(texts, Confidence(0.0), times)
    assert [step.gamma for step in at_once.steps] == [3, 3]
    for step, first_ms in zip(at_once.steps, [TIMES.draft_ms(), TIMES.draft_ms(2)], strict=True):
        assert step.draft_ms == pytest.approx(first_ms + 2 * TIMES.draft_ms() / 4)
    (step,) = one_by_one.steps
    assert step.draft_ms == pytest.approx(7 * TIMES.draft_ms())


@pytest.mark.parametrize("ahead", [True, False])
def test_a_rule_takes_the_devices_time_instead_of_the_hosts(ahead: bool) -> None:
    class Pondering(Confidence):
        """Takes its time over every token."""

        def gamma(self, drafted: Drafted) -> int:
            if drafted.count:
                sum(range(50_000))
            return super().gamma(drafted)

    class Ruled(Pondering):
        def device_rule(self) -> object:
            """One that the device could follow."""
            return object()

    texts = [text([3] * 40)]
    times = StepTimes({1: 50.0}, {1: 100.0}, ahead=ahead, foreseen=51.0 if ahead else None)
    (asked,) = replay(texts, Pondering(0.5), times)
    (foreseen,) = replay(texts, Ruled(0.5), times)
    assert counts(asked) == counts(foreseen)
    drafted = sum(step.gamma for step in asked.steps)
    assert foreseen.model_ms == pytest.approx(asked.model_ms + ahead * drafted * 1.0)
    if ahead:
        assert foreseen.policy_ms < asked.policy_ms / 4
    else:
        assert foreseen.policy_ms > asked.policy_ms / 4


class Sparing(Fixed):
    """Wants spares at some places, and keeps what it is told."""

    def __init__(self, length: int, places: list[int]) -> None:
        super().__init__(length)
        self.places, self.told = places, list[Outcome]()

    def spares(self, drafted: Drafted) -> list[int]:
        return [place for place in self.places if place < drafted.count]

    def observe(self, outcome: Outcome) -> None:
        self.told.append(outcome)


def test_a_spare_that_stands_by_hand() -> None:
    """Two drafted tokens and one spare cost 2 + 7 + 0.5 ms; the draft has not seen two after it, and takes 0.5 more."""
    traced = dataclasses.replace(text([0, 9, 9, 0, 9, 9]), seconds=[True, True, True, False, True, True])
    times = StepTimes(TIMES.draft, TIMES.target, spare_ms=0.5)
    policy = Sparing(2, [0])
    [run] = replay([traced], policy, times)
    assert [(step.gamma, step.accepted, step.spares, step.spared, step.tokens) for step in run.steps] == [
        (2, 0, 1, True, 2),  # of position 0, whose second choice is right, and 1
        (2, 2, 1, False, 3),
        (0, 0, 0, False, 1),
    ]
    assert run.steps == policy.told
    assert run.model_ms == (2 + 7 + 0.5) + (2.5 + 7 + 0.5) + 4
    assert run.tokens == 6


@pytest.mark.parametrize("spare_ms", [None, 0.5])
def test_where_a_loop_or_a_trace_knows_no_spares_none_are_asked_for(spare_ms: float | None) -> None:
    traced = text([0, 9, 9, 0, 9, 9])
    if spare_ms is None:
        traced = dataclasses.replace(traced, seconds=[True] * 6)
    policy = Sparing(2, [0])
    [run] = replay([traced], policy, StepTimes(TIMES.draft, TIMES.target, spare_ms=spare_ms))
    assert not any(step.spares or step.spared for step in run.steps)
    assert [step.tokens for step in run.steps] == [1, 3, 2]
