"""A draft that runs out of memory, computes no numbers, or is of no use: the text is the target's all the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicSlidingWindowLayer

from runtime.loop.generate import speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import cached_pair
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from runtime.policies.registry import make_policy
from runtime.profile.start_up import timed_policies
from tests.faults.injections import OUT_OF_MEMORY, SPOILT, fails, in_forward, spoils
from tests.faults.loops import LOOPS, graphs, plain
from tests.loop.fakes import StopWhenUnsure, Untimed
from tests.loop.test_greedy import own_tokens
from tests.loop.tiny import VOCABULARY, tiny_model
from tests.replay.tiny import TIMES

PROMPT, NEW = [3, 1, 4, 1, 5], 24
ERRORS = [OUT_OF_MEMORY, RuntimeError("CUDA error: an illegal instruction"), IndexError("index out of range")]
POLICIES: dict[str, Callable[[], Policy]] = {
    "all at once": lambda: Fixed(4),
    "one by one": lambda: StopWhenUnsure(0.0, 4),
    "adaptive": lambda: Untimed(make_policy("adaptive", "fp16", TIMES)),
}


@pytest.fixture(scope="module")
def expected(target: PreTrainedModel) -> list[int]:
    return own_tokens(target, PROMPT, NEW)


@pytest.mark.parametrize("after", [0, 1, 3, 9])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("loop", LOOPS)
def test_failing(
    loop: str,
    policy: str,
    error: Exception,
    after: int,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
) -> None:
    calls: list[Any] = []
    with in_forward(draft, calls.append), in_forward(draft, fails(error), after):
        assert LOOPS[loop](draft, target, PROMPT, POLICIES[policy](), NEW) == expected
    if len(calls) > after:
        assert len(calls) == after + 1  # not asked again
        assert len(told.messages) == 1
        assert type(error).__name__ in told.messages[0]


@pytest.mark.parametrize("after", [0, 1, 3, 9])
@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("loop", LOOPS)
def test_logits_that_are_no_numbers(
    loop: str,
    policy: str,
    kind: str,
    after: int,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
) -> None:
    calls: list[Any] = []
    with in_forward(draft, calls.append), in_forward(draft, spoils(kind), after):
        assert LOOPS[loop](draft, target, PROMPT, POLICIES[policy](), NEW) == expected
    if len(calls) > after:
        assert len(told.messages) == 1
        assert "logits are not finite" in told.messages[0]


@pytest.mark.parametrize("act", [fails(OUT_OF_MEMORY), *map(spoils, SPOILT)])
@pytest.mark.parametrize("policy", POLICIES)
def test_while_sampling(
    policy: str,
    act: Callable[[Any], None],
    target: PreTrainedModel,
    draft: PreTrainedModel,
    told: pytest.LogCaptureFixture,
) -> None:
    """The distribution: tests/lossless. Here: all of the text, of the target's tokens."""
    with in_forward(draft, act, 3):
        tokens = plain(draft, target, PROMPT, POLICIES[policy](), NEW, sampling=Sampling(1.0), seed=1)
    assert len(tokens) == NEW
    assert all(0 <= token < VOCABULARY for token in tokens)
    assert len(told.messages) == 1


def test_what_was_drafted_before_it_failed_is_verified(target: PreTrainedModel) -> None:
    """The target as its own draft: three tokens were right before the fourth forward failed."""
    draft = copy.deepcopy(target)
    with in_forward(draft, fails(OUT_OF_MEMORY), 3):
        steps = list(speculate(*cached_pair(draft, target), PROMPT, Fixed(6), max_new_tokens=NEW))
    assert (steps[0].gamma, steps[0].accepted) == (3, 3)
    assert len(steps[0].drafted.tokens) == 3
    assert {step.gamma for step in steps[1:]} == {0}


@pytest.mark.parametrize("seed", range(6))
def test_what_was_drawn_before_it_failed_is_verified_on_graphs(
    seed: int, target: PreTrainedModel, draft: PreTrainedModel
) -> None:
    """A draft that fails on tokens of its own: the draws and their verification are the plain loop's."""

    def act(module: torch.nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        if int(given[0][0, -1] if given else module.last[0, -1]) % 3 == 1:  # type: ignore[operator, index]
            raise OUT_OF_MEMORY
        return output

    def keep(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        module.last = given[0] if given else named["input_ids"]

    handles = [draft.register_forward_pre_hook(keep, with_kwargs=True), draft.register_forward_hook(act)]
    given = draft, target, PROMPT, Fixed(4), NEW
    try:
        texts = [run(*given, sampling=Sampling(1.0), seed=seed) for run in (plain, graphs)]
    finally:
        for handle in handles:
            handle.remove()
    assert texts[0] == texts[1]


def test_its_cache_is_given_back(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    pair = cached_pair(draft, target)
    with in_forward(draft, fails(OUT_OF_MEMORY), 3):
        list(speculate(*pair, PROMPT, Fixed(2), max_new_tokens=NEW))
    assert pair[0].cache.get_seq_length() == pair[0].length == 0


def test_the_next_text_tries_it_again(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    for run in (plain, graphs):
        with in_forward(draft, fails(OUT_OF_MEMORY), 2, once=True):
            run(draft, target, PROMPT, Fixed(2), NEW)
    steps = list(speculate(*cached_pair(draft, target), PROMPT, Fixed(2), max_new_tokens=NEW))
    assert all(step.gamma == 2 for step in steps[:-1])


def test_failing_while_step_times_are_measured(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    told: pytest.LogCaptureFixture,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from runtime.pair.target import Target

    monkeypatch.setenv("SPECKV_CACHE", str(tmp_path_factory.mktemp("cache")))
    with in_forward(draft, fails(OUT_OF_MEMORY)):
        (policy,) = timed_policies("adaptive", 1, "x", draft, Target("y", target, tokenizer=None), lambda: None)
        assert plain(draft, target, PROMPT, policy, NEW) == expected
    assert len(told.messages) == 2  # the times, and the draft itself
    assert "step times cannot be measured" in told.messages[0]


@contextmanager
def outvoted(draft: PreTrainedModel, tokens: list[int]) -> Iterator[None]:
    """Let the draft never propose any of these."""

    def act(output: Any) -> None:
        output.logits = output.logits.clone()
        output.logits[..., tokens] = -1e9

    with in_forward(draft, act):
        yield


@pytest.mark.parametrize("policy", ["none", "fixed:5", "speckv", "adaptive", "confidence", "heuristic"])
@pytest.mark.parametrize("kind", ["identical", "random", "always wrong"])
@pytest.mark.parametrize("loop", LOOPS)
def test_of_any_quality(
    loop: str, kind: str, policy: str, target: PreTrainedModel, expected: list[int], told: pytest.LogCaptureFixture
) -> None:
    draft = target if kind == "identical" else tiny_model(seed=8, layers=1)
    chosen = Untimed(make_policy(policy, "fp16", TIMES))
    if kind == "always wrong":
        with outvoted(draft, expected):
            assert LOOPS[loop](draft, target, PROMPT, chosen, NEW) == expected
    else:
        assert LOOPS[loop](draft, target, PROMPT, chosen, NEW) == expected
    assert not told.messages


@pytest.mark.parametrize(
    ("loop", "kind"),
    [
        *((loop, kind) for loop in ("plain", "custom generate") for kind in ("wider", "narrower", "another order")),
        *((loop, "another order") for loop in ("graphs", "assisted")),  # transformers refuses another size itself
    ],
)
def test_vocabularies_that_differ(loop: str, kind: str, target: PreTrainedModel, expected: list[int]) -> None:
    """Another size is padding, another order a mistake that only the tokenizers show: it costs time, no token."""
    size = VOCABULARY + {"wider": 9, "narrower": -9, "another order": 0}[kind]
    draft = tiny_model(seed=1, layers=2, vocabulary=size)
    if kind == "another order":
        with torch.no_grad():
            for module in (draft.get_input_embeddings(), draft.get_output_embeddings()):
                module.weight.copy_(module.weight[torch.randperm(size, generator=torch.Generator().manual_seed(0))])
    for policy in ("fixed:4", "speckv", "confidence"):
        assert LOOPS[loop](draft, target, PROMPT, make_policy(policy, "fp16"), NEW) == expected


def changes_cache(kind: str) -> Callable[[Any], None]:
    """Return what turns the cache, in the midst of a text, into one of another type."""

    def act(output: Any) -> None:
        cache = output.past_key_values
        if kind == "sliding":
            for layer in cache.layers:
                layer.__class__ = DynamicSlidingWindowLayer
                layer.sliding_window, layer.cumulative_length = 4, layer.get_seq_length()
        elif kind == "forgetful":
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[..., -2:, :], layer.values[..., -2:, :]
        else:  # a new one, which nobody keeps
            cache.layers = DynamicCache().layers

    return act


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("kind", ["sliding", "forgetful", "new"])
@pytest.mark.parametrize("loop", ["plain", "custom generate", "assisted"])
def test_that_changes_its_cache_type(
    loop: str,
    kind: str,
    after: int,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
) -> None:
    with in_forward(draft, changes_cache(kind), after, once=True):
        assert LOOPS[loop](draft, target, PROMPT, Fixed(3), NEW) == expected
