"""Many texts side by side on CUDA graphs, with the embedded pair: each is the text that it is alone.

Float32: the same tokens, and the same acceptance, but for near ties. Half precision: logits depend on how many tokens
are scored in one call, so the share of tokens that are the same is printed and only bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from runtime.bench.reference import Reference
from runtime.cuda.loop import speculate_texts
from runtime.cuda.pair import GraphPair
from runtime.loop.generate import Step
from runtime.loop.texts import Text
from runtime.pair.draft import load_draft
from runtime.pair.target import Target, load_target
from runtime.policies.policy import Policy
from runtime.policies.registry import make_policy
from runtime.policies.step_times import StepTimes
from runtime.prompts import read_prompts

ROWS = (1, 4, 16, 64)
PROMPTS = read_prompts()[:72]  # more than rows, so that some join while others are at work
LONGEST = 6
TIMES = StepTimes({1: 0.3}, {1: 1.0, 9: 1.5})
MIXED = "fixed:3", "none", "adaptive", "confidence", "fixed:1"
Pair = tuple[PreTrainedModel, Target]


class Alone:
    """Every text decoded alone, three tokens drafted a step."""

    def __init__(self, draft: PreTrainedModel, target: Target) -> None:
        self.texts = [Text(target.encode(p.text), 6 + p.index % 17, target.eos) for p in PROMPTS]
        self.capacity = max(len(text.prompt) + text.max_new_tokens for text in self.texts)
        self.steps = side_by_side((draft, target), self, 1, ["fixed:3"])
        self.reference = Reference(target, exact=target.precision == "fp32")
        self.reference.tokens = {p.index: tokens(steps) for p, steps in zip(PROMPTS, self.steps, strict=True)}


def tokens(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps for token in step.tokens]


def accepted(texts: Sequence[Sequence[Step]]) -> int:
    return sum(step.accepted for steps in texts for step in steps)


def side_by_side(pair: Pair, alone: Alone, rows: int, names: Sequence[str]) -> list[list[Step]]:
    draft, target = pair
    policies: list[Policy] = [make_policy(names[n % len(names)], target.compression, TIMES) for n in range(rows)]
    found: list[list[Step]] = [[] for _ in alone.texts]
    for number, step, _ in speculate_texts(
        GraphPair(draft, target.model, rows, alone.capacity, LONGEST), alone.texts, policies
    ):
        found[number].append(step)
    return found


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    target = load_target(None, request.param, "cuda")
    yield load_draft(None, target), target
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def alone(pair: Pair) -> Alone:
    return Alone(*pair)


@pytest.mark.parametrize("names", [["fixed:3"], MIXED], ids=["alike", "mixed"])
@pytest.mark.parametrize("rows", ROWS)
def test_each_text_is_the_one_alone(pair: Pair, alone: Alone, rows: int, names: Sequence[str]) -> None:
    found = side_by_side(pair, alone, rows, names)
    same = 0
    for prompt, text, steps in zip(PROMPTS, alone.texts, found, strict=True):
        same += alone.reference.agreeing(f"{rows} rows", prompt, text.prompt, tokens(steps))
    share = same / sum(map(len, alone.reference.tokens.values()))
    print(f"\n{pair[1].precision}, {rows} rows, {' '.join(names)}: {share:.2%} of the tokens are those alone")
    assert share > (0.99 if pair[1].precision == "fp32" else 0.5)
    if len(names) == 1:
        assert accepted(found) == pytest.approx(accepted(alone.steps), rel=0.02 if share == 1 else 0.1)
