"""The loop on CUDA with the embedded pair is lossless, as design of the project defines it for every precision.

Float32: the tokens of the target's own `generate`. Half precision and quantised: a target's logits depend on how many
tokens are scored in one call, so every committed token is checked to be the argmax of its own verifying call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from runtime import GammaSelector
from runtime.loop.generate import Step, speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import CachedModel
from runtime.pair.draft import load_draft
from runtime.pair.target import Target, load_target
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from runtime.policies.speckv import SpecKV
from runtime.prompts import TASKS, read_prompts
from tests.loop.fakes import StopWhenUnsure
from tests.loop.remembered import Remembered
from tests.loop.test_sampling import FALSE_ALARM, p_value
from tests.loop.watched import Watched

Pair = tuple[PreTrainedModel, Target]


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8", "nf4"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    target = load_target(None, request.param, "cuda")
    assert target.precision == request.param
    yield load_draft(None, target), target
    torch.cuda.empty_cache()


def policies(target: Target) -> list[Policy]:
    return [Fixed(0), Fixed(4), SpecKV(GammaSelector(), target.compression), StopWhenUnsure()]


def run(pair: Pair, policy: Policy, prompt: list[int], new: int) -> Iterator[tuple[Step, Tensor]]:
    draft, target = pair
    scorer = Watched(target.model)
    for step in speculate(CachedModel(draft), scorer, prompt, policy, max_new_tokens=new, eos=target.eos):
        yield step, scorer.last


@pytest.mark.parametrize("task", TASKS)
def test_every_committed_token_is_the_targets_choice(pair: Pair, task: str) -> None:
    _, target = pair
    prompt = target.encode(next(prompt.text for prompt in read_prompts() if prompt.task == task))
    for policy in policies(target):
        text: list[int] = []
        for step, logits in run(pair, policy, prompt, 32):
            assert step.tokens == logits.argmax(-1)[: len(step.tokens)].tolist()
            text += step.tokens
        if target.precision == "fp32":
            ids = torch.tensor([prompt], device="cuda")
            own = target.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=32)
            assert text == own[0, len(prompt) :].tolist()


def test_the_embedded_draft_is_mostly_right(pair: Pair) -> None:
    """Mean accepted tokens of four over every fifth held-out prompt, at the default length of `generate`."""
    _, target = pair
    accepted: list[int] = []
    for prompt in read_prompts()[::5]:  # the tasks take turns, so this holds all four
        accepted += [step.accepted for step, _ in run(pair, Fixed(4), target.encode(prompt.text), 128)]
    assert sum(accepted) / len(accepted) >= 1.5


@pytest.mark.parametrize("policy", [Fixed(2), StopWhenUnsure(0.5, 3)], ids=["fixed", "signal"])
def test_sampling_has_the_targets_distribution(pair: Pair, policy: Policy) -> None:
    """The first token after a prompt, over many seeds, against the probabilities of the verifying calls.

    The same proposals come up again and again; LLM.int8 takes a tenth of a second for a call, so each is made once.
    """
    draft, target = pair
    scorers = Remembered(CachedModel(draft)), Remembered(CachedModel(target.model))
    prompt, sampling, runs = target.encode("Name a colour."), Sampling(temperature=1.0, top_k=8), 60
    with torch.inference_mode():
        logits = CachedModel(target.model).score(torch.tensor(prompt, device="cuda"), keep=1)
    exact = {(i,): float(p) for i, p in enumerate(sampling.probabilities(logits)[0].tolist()) if p > 0}
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(runs):
        for scorer in scorers:
            scorer.rollback(0)
        steps = speculate(*scorers, prompt, policy, max_new_tokens=4, sampling=sampling, seed=seed)
        counts[(next(steps).tokens[0],)] += 1
    common = sum(exact[outcome] for outcome in counts if outcome in exact)
    assert common > 0.5  # rounding moves a token in or out of the top 8 at most at its edge
    assert p_value(counts, exact) > FALSE_ALARM
