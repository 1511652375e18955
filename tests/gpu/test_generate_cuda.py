"""`model.generate` with the integration on a GPU: in float32 the text is the model's own; the graphs stay with it."""

from __future__ import annotations

import torch
from transformers import StoppingCriteriaList, StopStringCriteria

from integrations.transformers import kept, speculative_generate
from runtime.pair.draft import load_draft
from runtime.pair.target import load_target
from runtime.prompts import first_of_each_task, read_prompts

NEW = 48


def test_the_text_is_the_models_own_and_the_graphs_are_kept() -> None:
    target = load_target(None, "fp32", "cuda")
    model, draft = target.model, load_draft(None, target)
    backends = set()
    for prompt in first_of_each_task(read_prompts(), 1):
        ids = torch.tensor([target.encode(prompt.text)], device="cuda")
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "do_sample": False}
        for ending in ({}, {"stopping_criteria": StoppingCriteriaList([StopStringCriteria(target.tokenizer, ["e "])])}):
            own = model.generate(**given, **ending)
            for policy in ("none", "fixed:4", "adaptive"):
                ours = model.generate(
                    **given, **ending, custom_generate=speculative_generate, draft=draft, policy=policy
                )
                assert torch.equal(ours, own)
        chosen = getattr(model, kept.ATTRIBUTE).backend
        assert chosen.why == "CUDA graphs"
        backends.add(id(chosen))
    assert len(backends) == 1
