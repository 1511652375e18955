"""Tokens are compared before and while time is taken; everyone has a turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from runtime.bench.clock import Clock
from runtime.bench.contender import Contender
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
    return Meeting(contenders, PROMPTS, encoded, NEW, Reference(target, exact), Clock(torch.device("cpu")))


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
        meeting(target, [plain, Changed(plain, change)]).check()


def test_in_other_precisions_they_are_counted(target: Target) -> None:
    plain = Plain(target)
    late = Changed(plain, lambda tokens: [*tokens[:5], other(tokens[5]), *tokens[6:]])
    assert meeting(target, [plain, late], exact=False).check() == {"transformers": 24, "changed": 10}


def test_a_difference_while_timing_is_an_error_too(target: Target) -> None:
    plain = Plain(target)
    changing = Changed(plain, lambda tokens: tokens)
    together = meeting(target, [plain, changing])
    together.check()
    changing.change = lambda tokens: tokens[:3]
    with pytest.raises(SpeckvError, match="changed differs"):
        together.time(1)


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
        together.check()
        together.time(2)
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
    together.check()
    assert log == ["a", "b", "c"] * 2
    log.clear()
    runs = together.time(3)
    turns = [log[i : i + 3] for i in range(0, len(log), 3)]
    assert all(sorted(turn) == names for turn in turns)
    assert Counter(turn[0] for turn in turns) == {"a": 2, "b": 2, "c": 2}
    assert len(done) == together.runs(3)
    for name in names:
        assert [(run.prompt, run.task) for run in runs[name]] == [(0, "code"), (3, "chat")]
        assert all(len(run.seconds) == 3 and run.tokens == run.steps == [2, 2, 2] for run in runs[name])
