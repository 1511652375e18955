"""Traces equal what a live loop does at every position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from runtime.loop.generate import speculate
from runtime.loop.propose import token_signals
from runtime.loop.scorer import CachedModel
from runtime.pair.early_exit import early_exit
from runtime.policies.fixed import Fixed
from runtime.profile.records import COLUMNS, step_records, to_csv
from runtime.profile.trace import LOOKAHEAD, greedy_outputs, trace
from tests.loop.tiny import tiny_model

PROMPT = [5, 9, 33, 2]


@pytest.fixture(scope="module")
def pair() -> tuple[PreTrainedModel, PreTrainedModel]:
    target = tiny_model(seed=1)
    return early_exit(target, 2), target


def naive_rollout(draft: PreTrainedModel, prefix: list[int]) -> tuple[list[int], list[list[float]]]:
    tokens, signals = [], []
    with torch.inference_mode():
        for _ in range(LOOKAHEAD):
            logits = draft(torch.tensor([[*prefix, *tokens]])).logits[0, -1:]
            signals.append(token_signals(logits)[0].tolist())
            tokens.append(int(logits.argmax()))
    return tokens, signals


def test_every_rollout_is_the_drafts_own_from_there(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    draft, target = pair
    (output,) = greedy_outputs(target, [PROMPT], 70, ())  # more positions than are rolled out at once
    traced = trace(draft, target, PROMPT, output)
    assert traced.tokens.tolist() == output
    assert traced.rollouts.shape == (70, LOOKAHEAD, 4)
    assert traced.rollouts[:, :, 0].any()
    for position in (0, 1, 37, 63, 64, 69):
        tokens, signals = naive_rollout(draft, [*PROMPT, *output[:position]])
        ahead = [*output[position : position + LOOKAHEAD], *[-1] * LOOKAHEAD]
        agree = np.cumprod([a == b for a, b in zip(tokens, ahead, strict=False)])
        np.testing.assert_array_equal(traced.rollouts[position, :, 0], agree)
        np.testing.assert_allclose(traced.rollouts[position, :, 1:], signals, atol=4e-3)


def test_verified_is_what_the_verification_of_the_token_before_left(
    pair: tuple[PreTrainedModel, PreTrainedModel],
) -> None:
    draft, target = pair
    (output,) = greedy_outputs(target, [PROMPT], 12, ())
    traced = trace(draft, target, PROMPT, output)
    sequence = [*PROMPT, *output]
    for position in range(12):
        before = torch.tensor([sequence[: len(PROMPT) + position - 1]])
        with torch.inference_mode():
            p, q = (torch.softmax(model(before).logits[0, -1], -1) for model in (target, draft))
        entropy = float(-(p * p.log2()).sum())
        expected = [entropy, float(p.max()), float((p - q).abs().sum() / 2)]
        np.testing.assert_allclose(traced.verified[position], expected, atol=4e-3)


def test_a_prompt_of_one_token_has_nothing_verified_before(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    draft, target = pair
    (output,) = greedy_outputs(target, [[7]], 5, ())
    traced = trace(draft, target, [7], output)
    assert traced.verified.shape == (5, 3)
    assert traced.verified[0].tolist() == [0, 0, 0]
    assert traced.verified[1].any()


def test_batched_outputs_are_the_targets_own_and_end_at_eos(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    _, target = pair
    prompts = [[5], [5, 9, 33, 2], [1, 1]]
    free = greedy_outputs(target, prompts, 20, ())
    assert free == [greedy_outputs(target, [prompt], 20, ())[0] for prompt in prompts]
    eos = free[1][4]
    ended = greedy_outputs(target, prompts, 20, {eos})
    for tokens, whole in zip(ended, free, strict=True):
        end = whole.index(eos) + 1 if eos in whole else len(whole)
        assert tokens == whole[:end]


@pytest.mark.parametrize("gamma", [1, 2, 4, 8])
def test_records_are_the_steps_of_the_live_loop(pair: tuple[PreTrainedModel, PreTrainedModel], gamma: int) -> None:
    draft, target = pair
    (output,) = greedy_outputs(target, [PROMPT], 50, ())
    rows = list(step_records(trace(draft, target, PROMPT, output).rollouts, "fp16", "code", gamma))
    steps = list(speculate(CachedModel(draft), CachedModel(target), PROMPT, Fixed(gamma), max_new_tokens=50))[
        : len(rows)
    ]
    assert len(rows) > 5
    for i, (row, step) in enumerate(zip(rows, steps, strict=True)):
        record = dict(zip(COLUMNS, row, strict=True))
        assert (record["step"], record["gamma"], record["accepted"]) == (i, gamma, step.accepted)
        assert record["tokens_produced"] == len(step.tokens)
        signals = [record[name] for name in COLUMNS[-4:]]
        np.testing.assert_allclose(signals, step.drafted.signals(), atol=4e-3)


def test_csv_has_the_published_columns() -> None:
    assert to_csv([]).strip() == ",".join(COLUMNS)
