"""Sampling on CUDA graphs with the embedded pair: the plain loop's texts, and the target's distribution.

Float32: for every seed the plain loop's tokens, but where rounding tips a draw. Half precision: logits depend on how
many tokens are scored in one call, so the first token's distribution is tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from runtime.loop.backend import Backend, choose_backend
from runtime.loop.generate import speculate
from runtime.loop.sampling import Sampling
from runtime.loop.scorer import CachedModel, cached_pair
from runtime.loop.texts import Text
from runtime.pair.draft import load_draft
from runtime.pair.target import Target, load_target
from runtime.policies.fixed import Fixed
from runtime.policies.policy import Policy
from runtime.prompts import read_prompts
from tests.loop.fakes import StopWhenUnsure
from tests.loop.test_sampling import FALSE_ALARM, p_value

NEW = 32
PROMPTS = 8
"""Of each way and policy; the plain loop takes a second for a text."""
WAYS = Sampling(1.0), Sampling(0.7, top_k=50), Sampling(1.2, top_p=0.9)
POLICIES = {"none": Fixed(0), "fixed": Fixed(4), "signal": StopWhenUnsure(0.5, 6)}
Pair = tuple[Backend, Target, PreTrainedModel]


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    target = load_target(None, request.param, "cuda")
    draft = load_draft(None, target)
    backend = choose_backend(draft, target.model, 512, WAYS[0], rows=4)
    assert backend.why == "CUDA graphs"
    yield backend, target, draft
    torch.cuda.empty_cache()


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("way", WAYS, ids=["temperature", "top k", "top p"])
def test_one_seed_gives_one_text_on_either_loop(pair: Pair, way: Sampling, name: str) -> None:
    backend, target, draft = pair
    if target.precision != "fp32":
        pytest.skip("in half precision the loops' logits differ")
    policy, prompts = POLICIES[name], [target.encode(prompt.text) for prompt in read_prompts()[:PROMPTS]]
    same = 0
    first = PROMPTS * (len(POLICIES) * WAYS.index(way) + list(POLICIES).index(name))  # no two texts share a seed
    for seed, prompt in enumerate(prompts, first):
        fast = backend.steps(prompt, policy, max_new_tokens=NEW, sampling=way, eos=target.eos, seed=seed)
        plain = speculate(
            *cached_pair(draft, target.model),
            prompt,
            policy,
            max_new_tokens=NEW,
            sampling=way,
            eos=target.eos,
            seed=seed,
        )
        texts = [[(step.tokens, step.gamma, step.accepted) for step in steps] for steps in (fast, plain)]
        same += texts[0] == texts[1]
        assert texts[0][0] == texts[1][0]  # a first step that differs is no rounding
    print(f"\n{way}, {name}: {same} of {len(prompts)} texts are the plain loop's")
    assert same >= len(prompts) - 2


def test_a_row_is_the_text_alone(pair: Pair) -> None:
    """All rows at once: their calls are as wide as the longest draft, and so rounding differs a little."""
    backend, target, _ = pair
    if target.precision != "fp32":
        pytest.skip("in half precision logits depend on the width of a call")
    texts = [Text(target.encode(prompt.text), NEW, target.eos) for prompt in read_prompts()[:12]]
    policies: list[Policy] = [Fixed(4) for _ in range(backend.rows)]
    found = dict(backend.texts(texts, policies, sampling=WAYS[0], seed=3))
    same = 0
    for number, text in enumerate(texts):
        alone = backend.steps(text.prompt, Fixed(4), max_new_tokens=NEW, sampling=WAYS[0], eos=target.eos, seed=3)
        same += [step.tokens for step in alone] == [step.tokens for step in found[number]]
    print(f"\n{same} of {len(texts)} texts are those alone")
    assert same >= len(texts) - 2


@pytest.mark.parametrize("name", POLICIES)
def test_the_first_tokens_have_the_targets_distribution(pair: Pair, name: str) -> None:
    """Over many seeds, against the probabilities of the plain target."""
    backend, target, _ = pair
    prompt, way, runs = target.encode("Name a colour."), Sampling(temperature=1.0, top_k=8), 400
    with torch.inference_mode():
        logits = CachedModel(target.model).score(torch.tensor(prompt, device="cuda"), keep=1)
    exact = {(i,): float(p) for i, p in enumerate(way.probabilities(logits)[0].tolist()) if p > 0}
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(runs):
        steps = backend.steps(prompt, POLICIES[name], max_new_tokens=8, sampling=way, seed=seed)
        counts[(next(iter(steps)).tokens[0],)] += 1
    common = sum(exact.get(outcome, 0) for outcome in counts)
    assert common > 0.5  # rounding moves a token in or out of the top 8 at most at its edge
    assert p_value(counts, exact) > FALSE_ALARM
