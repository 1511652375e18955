"""What a precision of the target costs and changes: bytes, times, agreement with token-by-token greedy, perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from runtime.loop.generate import speculate
from runtime.loop.scorer import CachedModel, cached_pair
from runtime.pair.target import Target
from runtime.policies.fixed import Fixed
from runtime.profile.step_times import TARGET_WIDTHS, measure_step_times
from runtime.prompts import Prompt

GAMMA = 4
"""The loop that is compared with token-by-token greedy drafts this many tokens a step."""


@dataclass(frozen=True)
class PrecisionRow:
    """One precision of one target on one device."""

    precision: str
    weight_bytes: int
    draft_ms: float
    """One draft forward on one token, median milliseconds."""
    target_ms: dict[str, float]
    """One target forward on q tokens, `{"eager1": …}`, median milliseconds."""
    agreement: float
    """Share of the loop's greedy tokens that the target, fed the same text token by token, ranks first."""
    tokens: int
    """Tokens that the agreement was taken over."""
    perplexity: float
    """Of the target on the fixed text, in one pass."""


def measure_precision(target: Target, draft: PreTrainedModel, prompts: Sequence[Prompt], new: int) -> PrecisionRow:
    """Measure one loaded target; `new` tokens of each prompt go into the agreement."""
    agreed = total = 0
    for prompt in prompts:
        matches = _agreement(target, draft, target.encode(prompt.text), new)
        agreed, total = agreed + sum(matches), total + len(matches)
    return PrecisionRow(
        precision=target.precision,
        weight_bytes=target.model.get_memory_footprint(return_buffers=False),
        draft_ms=measure_step_times(draft, (1,))["eager1"],
        target_ms=measure_step_times(target.model, TARGET_WIDTHS),
        agreement=agreed / total,
        tokens=total,
        perplexity=perplexity(target, fixed_text(prompts)),
    )


def fixed_text(prompts: Sequence[Prompt]) -> str:
    """Return the text that perplexity is taken on: all the prompts."""
    return "\n\n".join(prompt.text for prompt in prompts)


@torch.inference_mode()
def perplexity(target: Target, text: str) -> float:
    """Return exp of the mean negative log likelihood of the text's tokens but the first."""
    device = target.model.get_input_embeddings().weight.device
    ids = torch.tensor(target.tokenizer(text).input_ids, device=device)
    log_p = torch.log_softmax(target.model(ids[None]).logits[0, :-1].float(), -1)
    return math.exp(-float(log_p.gather(1, ids[1:, None].to(log_p.device)).mean()))


def _agreement(target: Target, draft: PreTrainedModel, prompt: list[int], new: int) -> list[bool]:
    steps = speculate(*cached_pair(draft, target.model), prompt, Fixed(GAMMA), max_new_tokens=new, eos=target.eos)
    tokens = [token for step in steps for token in step.tokens]
    alone = CachedModel(target.model)
    context = torch.tensor([*prompt, *tokens[:-1]], device=alone.device)
    alone.score(context[: len(prompt) - 1], keep=1)
    one_by_one = context[len(prompt) - 1 :, None]
    return [int(alone.score(token, keep=1).argmax()) == own for token, own in zip(one_by_one, tokens, strict=True)]
