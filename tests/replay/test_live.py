"""Under every policy a live run commits the target's own tokens; traced and replayed, it takes the same steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from runtime.loop.generate import speculate
from runtime.loop.scorer import CachedModel
from runtime.policies.registry import make_policy
from runtime.profile.trace import greedy_outputs, trace
from runtime.replay.replay import replay
from runtime.replay.traces import Text, read_traces
from tests.loop.tiny import tiny_model
from tests.replay.tiny import TIMES

PROMPTS = [[5, 9, 33, 2], [7], [1, 2, 3, 1, 2, 3]]
NEW = 60


@pytest.fixture(scope="module")
def pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    draft = tiny_model(seed=1)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return draft, tiny_model(seed=1)


@pytest.fixture(scope="module")
def outputs(pair: tuple[PreTrainedModel, PreTrainedModel]) -> list[list[int]]:
    return [greedy_outputs(pair[1], [prompt], NEW, ())[0] for prompt in PROMPTS]


@pytest.fixture(scope="module")
def texts(
    pair: tuple[PreTrainedModel, PreTrainedModel],
    outputs: list[list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Text]:
    draft, target = pair
    traces = [trace(draft, target, *both).rollouts for both in zip(PROMPTS, outputs, strict=True)]
    path = tmp_path_factory.mktemp("traces") / "fp16.npz"
    np.savez(path, **{f"{i}_tiny": rollouts for i, rollouts in enumerate(traces)})
    return read_traces(path)


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "fixed:1",
        "fixed:4",
        "fixed:9",
        "speckv",
        "speckv-cost",
        "confidence:0.4",
        "confidence:0.3",
        "heuristic",
        "svip:0.55",
        "adaedl:0.3",
        "specdec++:0.95",
        "throughput",
        "moving-average",
        "bandit",
    ],
)
def test_replay_takes_the_steps_of_the_live_loop(
    pair: tuple[PreTrainedModel, PreTrainedModel], outputs: list[list[int]], texts: list[Text], name: str
) -> None:
    # One object for all prompts in both places: what persists over texts persists alike.
    live, replayed = make_policy(name, "fp16", TIMES), make_policy(name, "fp16", TIMES)
    runs = replay(texts, replayed, TIMES)
    for prompt, output, run in zip(PROMPTS, outputs, runs, strict=True):
        draft, target = pair
        steps = list(speculate(CachedModel(draft), CachedModel(target), prompt, live, max_new_tokens=NEW))
        assert [token for step in steps for token in step.tokens] == output
        assert max(step.gamma for step in steps) <= 16  # beyond, a trace cannot follow
        assert [(step.gamma, step.accepted) for step in steps] == run.steps
    if name != "none":
        assert len({step for run in runs for step in run.steps}) > 2
