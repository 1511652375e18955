"""Greedy output of the loop is the target's own, token for token, whatever drafts and whatever chooses gamma."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, MambaConfig, PreTrainedModel

from runtime import SpeckvError
from runtime.loop.generate import Step, speculate
from runtime.loop.scorer import CachedModel
from runtime.pair.early_exit import early_exit
from runtime.policies import registry
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from tests.loop.fakes import Erratic, StopWhenUnsure
from tests.loop.tiny import VOCABULARY, tiny_model
from tests.replay.tiny import TIMES

POLICIES = ["none", "fixed:1", "fixed:4", "fixed:9", "speckv", "adaedl", "bandit", "adaptive", "signal", "erratic"]
"""The others: tests/replay/test_live.py."""


def make_policy(name: str) -> Policy:
    if name == "signal":
        return StopWhenUnsure()
    return Erratic() if name == "erratic" else registry.make_policy(name, "fp16", TIMES)


def make_draft(name: str, target: PreTrainedModel) -> PreTrainedModel:
    if name == "good":  # the target with a little noise: mostly right
        draft = tiny_model(seed=1)
        with torch.no_grad():
            for parameter in draft.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        return draft
    if name == "random":
        return tiny_model(seed=2, layers=1)
    if name == "early exit":
        return early_exit(target, 2)
    return target


def run(
    draft: PreTrainedModel, target: PreTrainedModel, prompt: list[int], policy: Policy, new: int, eos: tuple[int, ...]
) -> list[Step]:
    pair = CachedModel(draft), CachedModel(target)
    return list(speculate(*pair, prompt, policy, max_new_tokens=new, eos=eos))


def own_tokens(target: PreTrainedModel, prompt: list[int], new: int, eos: int | None = None) -> list[int]:
    ids = torch.tensor([prompt])
    # The mask is given because transformers otherwise takes token 0, an ordinary one here, for padding.
    output = target.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, eos_token_id=eos
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("draft", ["good", "random", "early exit", "the target"])
@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_equals_the_targets_own_generate(target: PreTrainedModel, draft: str, policy: str) -> None:
    chooser = random.Random(draft + policy)
    for length in (1, 2, 17):
        prompt = [chooser.randrange(VOCABULARY) for _ in range(length)]
        steps = run(make_draft(draft, target), target, prompt, make_policy(policy), 40, ())
        assert [token for step in steps for token in step.tokens] == own_tokens(target, prompt, 40)


def test_the_target_as_its_own_draft_is_always_accepted(target: PreTrainedModel) -> None:
    steps = run(target, target, [3, 1, 4], Fixed(4), 40, ())
    assert [step.accepted for step in steps] == [4] * 8
    assert [len(step.tokens) for step in steps] == [5] * 8


def test_a_good_draft_is_accepted_more_often_than_a_random_one(target: PreTrainedModel) -> None:
    accepted = {
        name: sum(step.accepted for step in run(make_draft(name, target), target, [5, 9], Fixed(4), 60, ()))
        for name in ("good", "random")
    }
    assert accepted["good"] > accepted["random"]


def test_generation_ends_at_the_first_end_of_sequence_token(target: PreTrainedModel) -> None:
    prompt = [7, 7, 7]
    free = own_tokens(target, prompt, 40)
    for position in (0, 3, 6):  # at different places of a step, the first occurrence of each
        eos = free[position]
        expected = own_tokens(target, prompt, 40, eos)
        assert expected[-1] == eos
        for policy in (Fixed(0), Fixed(3), Fixed(8)):
            steps = run(target, target, prompt, policy, 40, (eos,))
            assert [token for step in steps for token in step.tokens] == expected


@pytest.mark.parametrize("new", [1, 2, 3, 5])
def test_never_more_tokens_than_asked_for(target: PreTrainedModel, new: int) -> None:
    steps = run(target, target, [1, 2], Fixed(8), new, ())
    assert sum(len(step.tokens) for step in steps) == new
    assert all(step.gamma < new for step in steps)


def test_an_empty_prompt_is_refused(target: PreTrainedModel) -> None:
    with pytest.raises(SpeckvError, match="no tokens"):
        run(target, target, [], Fixed(1), 3, ())


def test_a_padded_draft_vocabulary_is_cut_to_the_targets(target: PreTrainedModel) -> None:
    wide, narrow = tiny_model(5, 1, VOCABULARY + 7), tiny_model(5, 1, VOCABULARY - 7)
    for draft in (wide, narrow):
        pair = CachedModel(draft, VOCABULARY), CachedModel(target)
        steps = list(speculate(*pair, [1, 2, 3], Fixed(3), max_new_tokens=20))
        assert [token for step in steps for token in step.tokens] == own_tokens(target, [1, 2, 3], 20)


def test_text_that_does_not_fit_the_context_is_refused_before_anything_is_computed(target: PreTrainedModel) -> None:
    context = target.config.max_position_embeddings
    with pytest.raises(SpeckvError, match=f"do not fit into the draft's context of {context}"):
        run(target, target, [1] * (context - 3), Fixed(2), 4, ())
    assert len(run(target, target, [1] * (context - 3), Fixed(2), 3, ())) >= 1


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_recurrent_models_are_refused(kind: str) -> None:
    if kind == "mamba":
        config = MambaConfig(vocab_size=31, hidden_size=16, num_hidden_layers=2)
    else:
        config = Lfm2Config(
            vocab_size=31, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, full_attn_idxs=[1],
        )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(SpeckvError, match="recurrent"):
        CachedModel(model)
