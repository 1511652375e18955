"""Random cases of greedy decoding: a target, a draft, a prompt and a policy, in fp32."""

from __future__ import annotations

import functools
import itertools
import random
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from runtime.loop.generate import speculate
from runtime.loop.scorer import cached_pair
from runtime.pair.early_exit import early_exit
from runtime.policies.policy import Policy
from tests.integrations.transformers.pairs import LLAMA_LIKE, SHAPE, noisy
from tests.loop.test_greedy import own_tokens
from tests.loop.tiny import VOCABULARY
from tests.lossless.policies import POLICIES

ONE_HEAD_SIZE = {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", LLAMA_LIKE),
    "mistral": ("MistralConfig", {**LLAMA_LIKE, "sliding_window": 5}),
    "qwen2": ("Qwen2Config", {**LLAMA_LIKE, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**LLAMA_LIKE, "head_dim": 8}),
    "gpt2": ("GPT2Config", {**SHAPE, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 256}),
    "gpt_neox": ("GPTNeoXConfig", ONE_HEAD_SIZE),
    "phi": ("PhiConfig", LLAMA_LIKE),
    "gemma": ("GemmaConfig", {**LLAMA_LIKE, "head_dim": 8}),
    "olmo2": ("Olmo2Config", LLAMA_LIKE),
    "mixtral": ("MixtralConfig", {**LLAMA_LIKE, "num_local_experts": 4}),
    "opt": ("OPTConfig", {**ONE_HEAD_SIZE, "ffn_dim": 64, "init_std": 0.4, "word_embed_proj_dim": 32}),
    "stablelm": ("StableLmConfig", LLAMA_LIKE),
}
DRAFTS = ("noisy", "very noisy", "random", "another family", "early exit", "the target")
CASES = 528
LONGEST = 24
"""New tokens of a case."""
TARGETS, PROMPTS = 2, 4
"""Of each family, and of each target."""
TIE = 1e-4
"""Logits nearer than this are equal: rounding then decides, and it depends on how many tokens one call scores."""


class Case(NamedTuple):
    """What is decoded; reproducible by its fields alone."""

    family: str
    seed: int
    draft: str
    prompt: int
    policy: str


def random_cases() -> list[Case]:
    """Return `CASES` different ones, each family's alike in number, in random order."""
    chooser = random.Random(7)
    rest = list(itertools.product(range(TARGETS), DRAFTS, range(PROMPTS), POLICIES))
    each = CASES // len(FAMILIES)
    return [Case(family, *fields) for family in FAMILIES for fields in chooser.sample(rest, each)]


@functools.cache
def target_of(family: str, seed: int) -> PreTrainedModel:
    kind, settings = FAMILIES[family]
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings)).eval()


@functools.cache
def draft_of(case: tuple[str, int, str]) -> PreTrainedModel:
    family, seed, kind = case
    target = target_of(family, seed)
    if kind in ("noisy", "very noisy"):
        return noisy(target, 0.02 if kind == "noisy" else 0.1)
    if kind == "early exit" and hasattr(target.base_model, "layers"):
        return early_exit(target, 1)
    if kind == "another family":
        return target_of("gpt2" if family == "llama" else "llama", seed + 50)
    return target if kind == "the target" else target_of(family, seed + 100)


@functools.cache
def prompt_of(number: int) -> tuple[int, ...]:
    chooser = random.Random(number)
    return tuple(chooser.randrange(VOCABULARY) for _ in range((1, 2, 9, 30)[number % 4]))


@functools.cache
def own(family: str, seed: int, prompt: int) -> list[int]:
    """What the target's own `generate` writes."""
    return own_tokens(target_of(family, seed), list(prompt_of(prompt)), LONGEST)


@functools.cache
def policy_of(name: str) -> Policy:
    """One object for all cases of a name: what it learned of one pair is nothing to the tokens of the next."""
    return POLICIES[name]()


def decoded(case: Case, new: int) -> list[int]:
    """What the loop writes."""
    pair = cached_pair(draft_of(case[:3]), target_of(case.family, case.seed))
    steps = speculate(*pair, prompt_of(case.prompt), policy_of(case.policy), max_new_tokens=new)
    return [token for step in steps for token in step.tokens]


def new_tokens(case: Case) -> int:
    return random.Random(str(case)).randint(1, LONGEST)


def wrong(case: Case) -> bool:
    """Return whether the loop writes something else than the target does, rounding apart."""
    new = new_tokens(case)
    ours, expected = decoded(case, new), own(case.family, case.seed, case.prompt)[:new]
    if ours == expected:
        return False
    if len(ours) != len(expected):
        return True
    place = next(i for i in range(new) if ours[i] != expected[i])
    text = [*prompt_of(case.prompt), *expected[:place]]
    with torch.inference_mode():
        logits = target_of(case.family, case.seed)(torch.tensor([text])).logits[0, -1]
    return float(logits[expected[place]] - logits[ours[place]]) > TIE
