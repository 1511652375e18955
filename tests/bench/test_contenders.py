"""Every contender writes the target's own tokens, and counts what it did."""

from __future__ import annotations

import copy
import importlib.util
import sys

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from runtime.bench import others
from runtime.bench.clock import Clock
from runtime.bench.generate import Assisted, Plain
from runtime.bench.loop import Loop
from runtime.loop.backend import Backend
from runtime.pair.draft import load_draft
from runtime.pair.target import Target
from runtime.policies.fixed import Fixed

PROMPT = [1, 2, 3]
NEW = 40


def own_loop(draft: PreTrainedModel, target: Target) -> Loop:
    return Loop("fixed:3", Backend(draft, target.model, None, "plain"), target.eos, Fixed(3))


def test_all_write_what_the_target_writes(target: Target) -> None:
    draft = load_draft("early-exit:2", target)
    plain = Plain(target).run(PROMPT, NEW)
    assert (len(plain.tokens), plain.steps, plain.drafted) == (NEW, NEW, 0)
    for contender in (
        own_loop(draft, target),
        Assisted(draft, target),
        Assisted(draft, target, 4),
    ):
        generation = contender.run(PROMPT, NEW)
        assert generation.tokens == plain.tokens, contender.name
        assert generation.steps < NEW
        # Each step gives its accepted tokens and one more, so at least this many were drafted.
        assert generation.drafted >= NEW - generation.steps


@pytest.mark.parametrize("constant", [1, 2, 4])
def test_a_constant_assistant_drafts_that_many_tokens(target: Target, constant: int) -> None:
    generation = Assisted(load_draft("early-exit:2", target), target, constant).run(PROMPT, NEW)
    # Less only where the end is near.
    assert constant * (generation.steps - constant) <= generation.drafted <= constant * generation.steps


def test_what_the_models_would_add_to_greedy_decoding_is_left_out_and_put_back(target: Target) -> None:
    draft = load_draft("early-exit:2", target)
    before = Plain(target).run(PROMPT, NEW).tokens
    own = target.model.generation_config
    penalty = copy.deepcopy(own)
    penalty.repetition_penalty = 5.0
    try:
        target.model.generation_config = penalty
        assert Plain(target).run(PROMPT, NEW).tokens == before
        assert Assisted(draft, target).run(PROMPT, NEW).tokens == before
        assert target.model.generation_config is penalty
    finally:
        target.model.generation_config = own
    ids = torch.tensor([PROMPT])
    settings = GenerationConfig(repetition_penalty=5.0, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    penalised = target.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    assert penalised[0, len(PROMPT) :].tolist() != before  # the penalty would have been seen


def test_no_hook_stays_on_the_models(target: Target) -> None:
    draft = load_draft("early-exit:2", target)
    Assisted(draft, target).run(PROMPT, 4)
    assert not target.model._forward_pre_hooks
    assert not draft._forward_pre_hooks


def test_a_text_ends_where_the_target_ends_it(target: Target) -> None:
    draft = load_draft("early-exit:2", target)
    own = target.model.generation_config
    end = Plain(target).run(PROMPT, NEW).tokens[6]
    try:
        target.model.generation_config = GenerationConfig(eos_token_id=end)
        tokens = Plain(target).run(PROMPT, NEW).tokens
        assert tokens[-1] == end
        assert tokens.count(end) == 1
        for contender in (own_loop(draft, target), Assisted(draft, target)):
            assert contender.run(PROMPT, NEW).tokens == tokens
    finally:
        target.model.generation_config = own


def test_a_system_that_cannot_take_part_is_left_out_with_its_reason(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(draft: object, target: object, constant: int | None = None) -> object:  # noqa: ARG001
        raise ValueError("the vocabularies\ndiffer")

    monkeypatch.setitem(sys.modules, "flashspec", None)
    monkeypatch.setattr(others, "Assisted", refuses)
    clock = Clock(torch.device("cpu"))
    tried: list[str] = []
    usable, left_out = others.other_systems(
        list(others.SYSTEMS), load_draft("early-exit:2", target), target, PROMPT, 50, clock, tried.append
    )
    assert [contender.name for contender in usable] == ["transformers"]
    assert tried == [f"trying {name}" for name in others.SYSTEMS]
    assert left_out == {
        "compiled": "SpeckvError: transformers compiles on CUDA alone",
        "assisted": "ValueError: the vocabularies differ",
        "assisted:4": "ValueError: the vocabularies differ",
        "flashspec": "flashspec is not installed",
    }


@pytest.mark.skipif(importlib.util.find_spec("flashspec") is None, reason="flashspec is not installed")
def test_flashspec_writes_what_the_target_writes(target: Target) -> None:
    from runtime.bench.flashspec import FlashSpec

    generation = FlashSpec(load_draft("early-exit:2", target), target).run(PROMPT, NEW)
    assert generation.tokens == Plain(target).run(PROMPT, NEW).tokens
    assert generation.drafted >= NEW - generation.steps
