"""Ctrl-C at every phase: it comes through, the steps before it stand, and the same models go on with the next text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedModel

from runtime.cuda.loop import speculate_greedily
from runtime.cuda.pair import GraphPair
from runtime.loop import generate as loop_module
from runtime.loop.generate import Step, speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import CachedModel, cached_pair
from tests.faults.injections import Faulty, fails, in_forward, raising
from tests.faults.loops import LOOPS, FakePair, tokens_of

PROMPT, NEW = [3, 1, 4, 1, 5], 24
IN_POLICY = ("begin", "first", "later", "observe")
IN_MODELS = ("draft", "target")
IN_LOOP = ("propose", "verify", "_accept", "commit", "rollback")


@contextmanager
def interrupted(phase: str, after: int, draft: PreTrainedModel, target: PreTrainedModel) -> Iterator[None]:
    """Raise KeyboardInterrupt in a phase, after so many calls of it."""
    if phase in IN_MODELS:
        with in_forward(draft if phase == "draft" else target, fails(KeyboardInterrupt()), after):
            yield
        return
    with pytest.MonkeyPatch.context() as patch:
        if phase in IN_LOOP:
            owner: Any = CachedModel if phase == "rollback" else loop_module
            original, calls = getattr(owner, phase), iter(range(10**9))

            def instead(*given: Any, **named: Any) -> Any:
                if next(calls) >= after:
                    raise KeyboardInterrupt
                return original(*given, **named)

            patch.setattr(owner, phase, instead)
        yield


def policy(phase: str = "", after: int = 0) -> Faulty:
    return Faulty(phase if phase in IN_POLICY else "", raising(KeyboardInterrupt()), after)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "sampling"])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("phase", [*IN_POLICY, *IN_MODELS, *IN_LOOP])
def test_the_plain_loop(
    phase: str, after: int, sampling: Sampling, target: PreTrainedModel, draft: PreTrainedModel
) -> None:
    if phase == "begin":
        after = 0

    def steps(chosen: Faulty) -> Iterator[Step]:
        scorers = cached_pair(draft, target)
        return speculate(*scorers, PROMPT, chosen, max_new_tokens=NEW, sampling=sampling, seed=2)

    whole = tokens_of(list(steps(policy())))
    taken: list[Step] = []
    chosen = policy(phase, after)
    with interrupted(phase, after, draft, target), pytest.raises(KeyboardInterrupt):
        taken.extend(steps(chosen))
    tokens = tokens_of(taken)
    assert len(tokens) < NEW
    assert tokens == whole[: len(tokens)]
    chosen.where = ""  # the same policy, too
    assert tokens_of(list(steps(chosen))) == whole


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("phase", [*IN_POLICY, *IN_MODELS])
def test_the_graph_loop(phase: str, after: int, target: PreTrainedModel, draft: PreTrainedModel) -> None:
    if phase == "begin":
        after = 0
    pair = cast(GraphPair, FakePair(draft, target))
    whole = tokens_of(list(speculate_greedily(pair, PROMPT, policy(), max_new_tokens=NEW)))
    taken: list[Step] = []
    with interrupted(phase, after, draft, target), pytest.raises(KeyboardInterrupt):
        taken.extend(speculate_greedily(pair, PROMPT, policy(phase, after), max_new_tokens=NEW))
    tokens = tokens_of(taken)
    assert tokens == whole[: len(tokens)]
    # The same pair, whose buffers hold the unfinished text.
    assert tokens_of(list(speculate_greedily(pair, PROMPT, policy(), max_new_tokens=NEW))) == whole


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("phase", [*IN_POLICY, *IN_MODELS])
@pytest.mark.parametrize("loop", ["custom generate", "assisted"])
def test_generate(loop: str, phase: str, after: int, target: PreTrainedModel, draft: PreTrainedModel) -> None:
    if phase == "begin":
        after = 0
    run = LOOPS[loop]
    whole = run(draft, target, PROMPT, policy(), NEW)
    with interrupted(phase, after, draft, target), pytest.raises(KeyboardInterrupt):
        run(draft, target, PROMPT, policy(phase, after), NEW)
    assert run(draft, target, PROMPT, policy(), NEW) == whole


def test_between_two_steps(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    """A caller that leaves closes the generator; nothing is computed any more."""
    calls: list[Any] = []
    steps = speculate(*cached_pair(draft, target), PROMPT, policy(), max_new_tokens=NEW)
    with in_forward(target, calls.append):
        next(steps)
        before = len(calls)
        cast(Any, steps).close()
        with pytest.raises(StopIteration):
            next(steps)
    assert len(calls) == before


def test_a_system_exit_comes_through(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    for error in (SystemExit(3), GeneratorExit()):
        with pytest.raises(type(error)), torch.no_grad():
            LOOPS["plain"](draft, target, PROMPT, Faulty("first", raising(error), 2), NEW)
