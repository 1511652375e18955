"""Top-1 agreement: how often a drafter's most probable token is the one the target generates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from export.drafter.corpus import Collator, Documents
from export.drafter.generate import decode
from runtime.pair.target import encode_prompt
from runtime.prompts import Prompt

HELD_OUT_TOKENS = 128
ROWS = 64


@dataclass(frozen=True)
class Agreement:
    """Share of the target's greedy tokens that the drafter predicts, over all positions and per task."""

    overall: float
    tasks: dict[str, float]
    tokens: int


def greedy_documents(target: PreTrainedModel, tokenizer: Any, prompts: list[Prompt]) -> Documents:
    """Return the target's greedy answers (128 tokens at most), each behind its prompt."""
    inputs = [encode_prompt(tokenizer, prompt.text) for prompt in prompts]
    answers = decode(target, inputs, HELD_OUT_TOKENS)
    sequences = [prompt + answer for prompt, answer in zip(inputs, answers, strict=True)]
    return Documents.of(sequences, [len(prompt) for prompt in inputs])


@torch.inference_mode()
def measure_agreement(drafter: PreTrainedModel, documents: Documents, prompts: list[Prompt]) -> Agreement:
    """Feed the drafter the target's text and compare its argmax with the next token, at every generated position."""
    collate = Collator(documents, drafter.device)
    hits: dict[str, int] = {}
    totals: dict[str, int] = {}
    for task in dict.fromkeys(prompt.task for prompt in prompts):
        chosen = [i for i, prompt in enumerate(prompts) if prompt.task == task]
        for start in range(0, len(chosen), ROWS):
            batch = collate(torch.tensor(chosen[start : start + ROWS]).numpy())
            hidden = drafter.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
            logits = drafter.get_output_embeddings()(hidden.flatten(0, 1)[batch.positions])
            hits[task] = hits.get(task, 0) + int((logits.argmax(-1) == batch.labels).sum())
            totals[task] = totals.get(task, 0) + len(batch.labels)
    tokens = sum(totals.values())
    return Agreement(sum(hits.values()) / tokens, {task: hits[task] / totals[task] for task in hits}, tokens)
