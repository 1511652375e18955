"""Texts at their limits: empty, too long, ending inside a draft, or by a string across two steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from integrations.transformers import generate
from runtime import SpeckvError
from runtime.cuda.pair import GraphPair
from runtime.loop.backend import Backend
from runtime.loop.sampling import Sampling
from runtime.policies.fixed import Fixed
from runtime.policies.registry import make_policy
from tests.faults.loops import LOOPS, FakePair, graphs, plain
from tests.loop.fakes import Untimed
from tests.loop.test_greedy import own_tokens
from tests.loop.tiny import VOCABULARY, tiny_model
from tests.replay.tiny import TIMES

PROMPT, NEW = [3, 1, 4, 1, 5], 24
CONTEXT = 512


@pytest.fixture(scope="module")
def expected(target: PreTrainedModel) -> list[int]:
    return own_tokens(target, PROMPT, NEW)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)], ids=["greedy", "sampling"])
@pytest.mark.parametrize(
    ("prompt", "said"),
    [([], "no tokens"), ([1] * CONTEXT, "do not fit"), ([1] * 5 * CONTEXT, "do not fit")],
    ids=["empty", "the whole context", "longer than the context"],
)
def test_prompts_that_cannot_be_continued(
    prompt: list[int], said: str, sampling: Sampling, target: PreTrainedModel, draft: PreTrainedModel
) -> None:
    graph_pair: Any = FakePair(draft, target)
    for pair in (None, graph_pair):
        backend = Backend(draft, target, pair, "")
        with pytest.raises(SpeckvError, match=said):
            list(backend.steps(prompt, Fixed(2), max_new_tokens=4, sampling=sampling))
    error = ValueError if prompt else (ValueError, RuntimeError)
    with pytest.raises(error):
        LOOPS["custom generate"](draft, target, prompt, Fixed(2), 4)


def test_the_last_token_of_the_context_is_written(target: PreTrainedModel, draft: PreTrainedModel) -> None:
    prompt = [(7 * i) % VOCABULARY for i in range(CONTEXT - 6)]
    wanted = own_tokens(target, prompt, 6)
    for name in ("plain", "custom generate"):
        assert LOOPS[name](draft, target, prompt, Fixed(8), 6) == wanted


def test_a_draft_with_the_shorter_context(target: PreTrainedModel) -> None:
    draft = tiny_model(seed=1, layers=2)
    draft.config.max_position_embeddings = 16
    with pytest.raises(SpeckvError, match="the draft's context of 16"):
        plain(draft, target, PROMPT, Fixed(2), NEW)


def test_a_real_pair_of_graphs_refuses_a_prompt_beyond_its_plan() -> None:
    pair = GraphPair.__new__(GraphPair)
    pair.capacity = 8
    with pytest.raises(SpeckvError, match="longer than the 8 planned"):
        pair.begin({0: [1] * 9})


@pytest.mark.parametrize("policy", ["none", "fixed:1", "fixed:3", "fixed:8", "adaptive"])
@pytest.mark.parametrize("loop", LOOPS)
def test_eos_at_every_place_of_a_step(
    loop: str, policy: str, target: PreTrainedModel, draft: PreTrainedModel, expected: list[int]
) -> None:
    """The target as its own draft, so that the end lies inside what was drafted, and a draft that is often wrong."""
    for eos in dict.fromkeys(expected[:9]):
        wanted = expected[: expected.index(eos) + 1]
        for model in (target, draft):
            ends: dict[str, Any] = {"eos": [eos]} if LOOPS[loop] in (plain, graphs) else {"eos_token_id": eos}
            chosen = Untimed(make_policy(policy, "fp16", TIMES))
            assert LOOPS[loop](model, target, PROMPT, chosen, NEW, **ends) == wanted


@pytest.mark.parametrize("gamma", [0, 1, 3, 8])
def test_eos_while_sampling(gamma: int, target: PreTrainedModel, draft: PreTrainedModel) -> None:
    """One seed, one text: with an end it is the same text up to it."""
    for seed in range(6):
        choice = {"sampling": Sampling(1.0), "seed": seed}
        free = plain(draft, target, PROMPT, Fixed(gamma), NEW, **choice)
        for eos in free[:6]:
            ended = plain(draft, target, PROMPT, Fixed(gamma), NEW, eos=[eos], **choice)
            assert ended == free[: free.index(eos) + 1]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Tokens are syllables: a stop string begins in one token and ends in another."""
    syllables = {f"{a}{b}": i for i, (a, b) in enumerate((a, b) for a in "bdfgklmn" for b in "aeiouyxz")}
    # The last word is the one that transformers' stop strings try a tokenizer with.
    words = {**dict(list(syllables.items())[: VOCABULARY - 1]), "abcdef": VOCABULARY - 1}
    tokenizer = Tokenizer(WordLevel(words, unk_token="ba"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="ba")


@pytest.mark.parametrize("gamma", [0, 1, 2, 5])
@pytest.mark.parametrize("sample", [False, True], ids=["greedy", "sampling"])
def test_stop_strings_across_two_steps(
    sample: bool,
    gamma: int,
    target: PreTrainedModel,
    draft: PreTrainedModel,
    expected: list[int],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Every string of two neighbouring syllables, from the middle of one to the middle of the next."""
    ids = torch.tensor([PROMPT])
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "tokenizer": tokenizer}
    policy = f"fixed:{gamma}"

    def ours(**more: Any) -> list[int]:
        torch.manual_seed(1)
        chosen = {"do_sample": True, "top_k": 0} if sample else {}
        output = generate(target, ids, draft=draft, policy=policy, **given, **chosen, **more)
        return output[0, len(PROMPT) :].tolist()

    free = ours()
    assert sample or free == expected
    before, *pieces = tokenizer.convert_ids_to_tokens([PROMPT[-1], *free])
    pairs = [one + other for one, other in zip([before, *pieces], pieces, strict=False)]
    for place in range(1, 12):
        string = pieces[place - 1][1:] + pieces[place][:1]
        first = next(i for i, pair in enumerate(pairs) if string in pair)
        assert ours(stop_strings=[string]) == free[: first + 1]


@pytest.mark.parametrize("gamma", [0, 3])
def test_a_stop_rule_across_two_steps_of_the_loop_itself(
    gamma: int, target: PreTrainedModel, draft: PreTrainedModel, expected: list[int]
) -> None:
    for place in range(1, 9):
        pair = expected[place - 1 : place + 1]

        def stop(context: torch.Tensor, new: Any, pair: list[int] = pair) -> bool:
            return [*context.tolist(), *new][-2:] == pair and len(context) + len(new) > len(PROMPT) + 1

        first = next(i for i in range(1, NEW) if expected[i - 1 : i + 1] == pair)
        for loop in (plain, graphs):
            assert loop(draft, target, PROMPT, Fixed(gamma), NEW, stop=stop) == expected[: first + 1]
