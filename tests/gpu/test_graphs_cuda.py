"""The loop on CUDA graphs with the embedded pair: chosen by itself, and lossless.

Float32: the tokens of the target's own `generate`, whatever the policy. INT8's and NF4's kernels are compared with the
same weights in floating point by the kernels' own tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from runtime.loop.backend import Backend, choose_backend
from runtime.loop.sampling import Sampling
from runtime.pair.draft import load_draft
from runtime.pair.target import Target, load_target
from runtime.policies.registry import make_policy
from runtime.profile.start_up import start_up_times
from runtime.prompts import TASKS, read_prompts

NEW = 64
Pair = tuple[Backend, Target, PreTrainedModel]


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8", "nf4"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    target = load_target(None, request.param, "cuda")
    draft = load_draft(None, target)
    backend = choose_backend(draft, target.model, 512, Sampling())
    assert backend.why == "CUDA graphs"
    yield backend, target, draft
    torch.cuda.empty_cache()


@pytest.mark.parametrize("task", TASKS)
def test_tokens_are_the_targets(pair: Pair, task: str) -> None:
    backend, target, draft = pair
    times = start_up_times(None, draft, target, lambda: None, backend.graphs)
    prompt = target.encode(next(prompt.text for prompt in read_prompts() if prompt.task == task))
    for name in ("none", "fixed:4", "speckv", "adaptive"):
        policy = make_policy(name, target.compression, times)
        steps = list(backend.steps(prompt, policy, max_new_tokens=NEW, eos=target.eos))
        text = [token for step in steps for token in step.tokens]
        assert 0 < len(text) <= NEW
        if target.precision == "fp32":
            ids = torch.tensor([prompt], device="cuda")
            own = target.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW)
            assert text == own[0, len(prompt) :].tolist()


def test_most_drafted_tokens_stand(pair: Pair) -> None:
    backend, target, _ = pair
    policy = make_policy("fixed:4", target.compression, None)
    accepted: list[int] = []
    for prompt in read_prompts()[::5]:
        steps = backend.steps(target.encode(prompt.text), policy, max_new_tokens=128, eos=target.eos)
        accepted += [step.accepted for step in steps]
    assert sum(accepted) / len(accepted) >= 1.5
