"""Under every policy a live run commits the target's own tokens; traced and replayed, it takes the same steps.

A trace holds float16: what a policy is told live and in a replay agrees to that precision.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from runtime.loop.generate import speculate
from runtime.loop.scorer import CachedModel
from runtime.policies import registry
from runtime.policies.policy import Outcome
from runtime.policies.registry import make_policy
from runtime.profile.trace import greedy_outputs, trace
from runtime.replay.replay import replay
from runtime.replay.traces import Text, read_traces
from tests.loop.fakes import Untimed
from tests.loop.tiny import tiny_model
from tests.replay.tiny import TIMES

PROMPTS = [[5, 9, 33, 2], [7], [1, 2, 3, 1, 2, 3]]
NEW = 60
POLICIES = [
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
    "adaptive",
]


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
    traces = [trace(draft, target, *both) for both in zip(PROMPTS, outputs, strict=True)]
    folder = tmp_path_factory.mktemp("traces")
    np.savez(folder / "fp16.npz", **{f"{i}_tiny": traced.rollouts for i, traced in enumerate(traces)})
    np.savez(folder / "fp16_verified.npz", **{f"{i}_tiny": traced.verified for i, traced in enumerate(traces)})
    return read_traces(folder / "fp16.npz")


class Recorder(Untimed):
    """A policy that keeps what it is told; untimed, as this machine is not that of the replay."""

    def begin(self) -> None:
        self.told: list[Outcome] = []
        super().begin()

    def observe(self, outcome: Outcome) -> None:
        self.told.append(outcome)
        super().observe(outcome)


@pytest.mark.parametrize("name", POLICIES)
def test_replay_takes_the_steps_of_the_live_loop(
    pair: tuple[PreTrainedModel, PreTrainedModel], outputs: list[list[int]], texts: list[Text], name: str
) -> None:
    # One object for all prompts in both places: what persists over texts persists alike.
    live, replayed = Recorder(make_policy(name, "fp16", TIMES)), make_policy(name, "fp16", TIMES)
    runs = replay(texts, replayed, TIMES)
    for prompt, output, run in zip(PROMPTS, outputs, runs, strict=True):
        draft, target = pair
        steps = list(speculate(CachedModel(draft), CachedModel(target), prompt, live, max_new_tokens=NEW))
        assert [token for step in steps for token in step.tokens] == output
        assert max(step.gamma for step in steps) <= 16  # beyond, a trace cannot follow
        assert [(step.gamma, step.accepted) for step in steps] == [step[:2] for step in run.steps]
        assert_told_alike(live.told, run.steps)
    if name != "none":
        assert len({step for run in runs for step in run.steps}) > 2


def test_no_policy_is_left_out() -> None:
    known = {"fixed", "speckv", *registry.PLAIN, *registry.THRESHOLD, *registry.TIMED}
    assert {name.partition(":")[0] for name in POLICIES} == known


def assert_told_alike(live: list[Outcome], replayed: list[Outcome]) -> None:
    for one, other in zip(live, replayed, strict=True):
        assert one[:2] == other[:2]
        assert one.verify_ms > 0
        assert one.draft_ms > 0
        assert (other.draft_ms > 0) == (other.gamma > 0)
        assert other.verify_ms == TIMES.target_ms(other.gamma + 1)
    for one, other in zip(live[:-1], replayed[:-1], strict=True):
        np.testing.assert_allclose(one[2:5], other[2:5], rtol=1e-3, atol=1e-3)  # NaN equals NaN
        assert math.isnan(one.distance) == (one.accepted == one.gamma)
    assert all(math.isnan(value) for value in replayed[-1][2:5])  # nothing follows the text's last token


def test_without_the_file_beside_nothing_is_known_of_distributions(texts: list[Text]) -> None:
    known = [Text(text.key, text.task, text.rollouts, text.accepted) for text in texts]
    for with_file, without in zip(
        replay(texts, make_policy("fixed:2", 0), TIMES), replay(known, make_policy("fixed:2", 0), TIMES), strict=True
    ):
        assert [step[:2] for step in without.steps] == [step[:2] for step in with_file.steps]
        assert [step[5:] for step in without.steps] == [step[5:] for step in with_file.steps]
        assert np.isnan([step[2:5] for step in without.steps]).all()
