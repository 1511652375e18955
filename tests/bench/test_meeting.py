"""Tokens are compared before and while time is taken; everyone has a turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from runtime.bench.clock import Clock
from runtime.bench.contender import Contender, Generation
from runtime.bench.generate import Plain
from runtime.bench.meeting import Meeting
from runtime.bench.reference import ROUNDING, Reference
from runtime.errors import SpeckvError
from runtime.pair.target import Target
from tests.bench.conftest import PROMPTS
from tests.bench.fakes import Changed, Scripted

NEW = 12


def meeting(target: Target, contenders: Sequence[Contender], exact: bool = True) -> Meeting:
    encoded = [target.encode(prompt.text) for prompt in PROMPTS]
    reference, clock = Reference(target, exact), Clock(torch.device("cpu"))
    return Meeting(contenders[0], contenders, PROMPTS, encoded, NEW, reference, clock)


def check(together: Meeting) -> None:
    assert list(together.check()) == list(range(len(PROMPTS)))


def all_repeat(together: Meeting, repeats: int) -> None:
    for _ in together.time(dict.fromkeys(together.agreeing, repeats)):
        pass


def other(token: int) -> int:
    return (token + 1) % 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tokens: [*tokens[:5], other(tokens[5]), *tokens[6:]],
            r"new token 5: \d+ instead of \d+, logits .* apart",
        ),
        (lambda tokens: tokens[:-2], "new token 10: it wrote 10 tokens, the target alone 12"),
        (lambda tokens: [*tokens, 1], "new token 12: it wrote 13 tokens, the target alone 12"),
    ],
)
def test_other_tokens_are_an_error_that_says_where(
    target: Target, change: Callable[[list[int]], list[int]], message: str
) -> None:
    plain = Plain(target)
    with pytest.raises(SpeckvError, match=rf"changed differs from plain decoding on prompt 0 \(code\) at {message}"):
        check(meeting(target, [plain, Changed(plain, change)]))


def test_in_other_precisions_the_targets_own_choices_are_counted_without_decoding_plainly(target: Target) -> None:
    plain = Plain(target)
    lossless = Changed(plain, lambda tokens: tokens)
    never = Scripted("plain", [1, 2], log := [])
    together = meeting(target, [lossless], exact=False)
    together = Meeting(
        never, [lossless], PROMPTS, together.encoded, NEW, Reference(target, exact=False), together.clock
    )
    check(together)
    all_repeat(together, 2)
    assert not log
    assert together.checks == len(PROMPTS)
    assert together.agreeing == {"changed": [12, 12]}
    assert together.compared("changed") == 24


def test_a_choice_is_right_after_the_text_before_it_whatever_stood_there(target: Target) -> None:
    plain, at = Plain(target), 5
    own = plain.run(target.encode(PROMPTS[0].text), NEW).tokens
    wrong = [*own[:at], other(own[at])]
    after = plain.run([*target.encode(PROMPTS[0].text), *wrong], NEW - len(wrong)).tokens
    log: list[str] = []
    together = meeting(target, [Scripted("a", [*wrong, *after], log), Scripted("b", own[:3], log)], exact=False)
    together.prompts, together.encoded = PROMPTS[:1], together.encoded[:1]
    assert list(together.check()) == [0]
    assert together.agreeing == {"a": [NEW - 1], "b": [3]}
    assert [together.compared(name) for name in ("a", "b")] == [NEW, 3]


def test_a_difference_while_timing_is_an_error_too(target: Target) -> None:
    plain = Plain(target)
    changing = Changed(plain, lambda tokens: tokens)
    together = meeting(target, [plain, changing])
    check(together)
    changing.change = lambda tokens: tokens[:3]
    with pytest.raises(SpeckvError, match="changed differs"):
        all_repeat(together, 1)


def test_a_near_tie_is_noted_once_and_no_error(target: Target) -> None:
    plain = Plain(target)
    token = plain.run(target.encode(PROMPTS[0].text), NEW).tokens[5]
    twin = 59 if token < 59 else 58
    head = target.model.lm_head.weight
    kept = head[twin].detach().clone()
    try:
        with torch.no_grad():
            head[twin] = head[token]
        swap = {token: twin, twin: token}
        swapped = Changed(plain, lambda tokens: [*tokens[:5], swap.get(tokens[5], tokens[5]), *tokens[6:]])
        together = meeting(target, [plain, swapped])
        check(together)
        all_repeat(together, 2)
    finally:
        with torch.no_grad():
            head[twin] = kept
    tie = next(tie for tie in together.reference.near_ties if tie.prompt == 0)
    assert (tie.contender, tie.position) == ("changed", 5)
    assert 0 <= tie.gap < ROUNDING
    assert len(together.reference.near_ties) <= len(PROMPTS)


def test_every_contender_has_each_prompt_once_a_repeat_and_the_first_place_in_turn(target: Target) -> None:
    log: list[str] = []
    names = ["a", "b", "c"]
    together = meeting(target, [Scripted(name, [1, 2], log) for name in names])
    done: list[None] = []
    together.advance = lambda: done.append(None)
    check(together)
    assert log == ["a", "b", "c"] * 2
    log.clear()
    all_repeat(together, 3)
    turns = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert all(sorted(turn) == names for turn in turns)
    assert Counter(turn[0] for turn in turns) == {"a": 2, "b": 2, "c": 2}
    assert len(done) == together.checks + 2 * 3 * 3
    for name in names:
        runs = together.runs()[name]
        assert [(run.prompt, run.task) for run in runs] == [(0, "code"), (3, "chat")]
        assert all(len(run.seconds) == 3 and run.tokens == run.steps == [2, 2, 2] for run in runs)


class Slow:
    """A clock on which every contender takes as many seconds as its name says."""

    def time(self, contender: Contender, prompt: Sequence[int], new_tokens: int) -> tuple[Generation, float]:
        return contender.run(prompt, new_tokens), float(contender.name)


def slow_meeting(target: Target, names: Sequence[str], log: list[str]) -> Meeting:
    together = meeting(target, [Scripted(name, [1, 2], log) for name in names])
    together.clock = Slow()  # type: ignore[assignment]
    return together


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, [6, 6, 6]),
        (1000, [6, 6, 6]),
        # Two prompts: 2 s, 8 s and 100 s a round. The first has its 6 in a third of the time, and leaves the rest.
        (60, [6, 3, 0]),
        (140, [6, 6, 0]),
        (160, [6, 6, 1]),
        (0, [0, 0, 0]),
    ],
)
def test_slow_contenders_repeat_less(target: Target, seconds: float | None, expected: list[int]) -> None:
    together = slow_meeting(target, ["1", "4", "50"], [])
    check(together)
    assert list(together.repeats(6, seconds).values()) == expected


def test_those_that_repeat_less_do_so_evenly_and_the_checked_run_counts_for_the_slowest(target: Target) -> None:
    log: list[str] = []
    together = slow_meeting(target, ["1", "4", "50"], log)
    check(together)
    log.clear()
    assert [len(log) for _ in together.time({"1": 4, "4": 2, "50": 0})] == [2, 6, 8, 12]
    assert Counter(log) == {"1": 8, "4": 4}
    runs = together.runs()
    assert [[len(run.seconds) for run in runs[name]] for name in ("1", "4", "50")] == [[4, 4], [2, 2], [1, 1]]
    assert [run.seconds for run in runs["50"]] == [[50], [50]]
    assert [together.repeated(name) for name in ("1", "4", "50")] == [4, 2, 0]


def test_the_reference_is_decoded_once_where_it_is_no_contender(target: Target) -> None:
    log: list[str] = []
    plain, other_one = Scripted("plain", [1, 2], log), Scripted("other", [1, 2], log)
    together = meeting(target, [plain])
    together = Meeting(
        plain, [other_one], PROMPTS, together.encoded, NEW, Reference(target, exact=True), together.clock
    )
    check(together)
    all_repeat(together, 2)
    assert log == ["plain", "other"] * 2 + ["other"] * 4
    assert together.runs().keys() == {"other"}


def test_an_interrupted_check_counts_the_prompts_that_all_have_decoded(target: Target) -> None:
    log: list[str] = []
    together = meeting(target, [Scripted("a", [1, 2], log), Scripted("b", [1, 2], log)])

    def stop_at_the_last_run() -> None:
        if len(log) == 3:
            raise KeyboardInterrupt

    together.advance = stop_at_the_last_run
    assert together.finished == 0
    with pytest.raises(KeyboardInterrupt):
        check(together)
    assert together.finished == 1
    assert {name: [run.prompt for run in runs] for name, runs in together.runs().items()} == {"a": [0], "b": [0]}
