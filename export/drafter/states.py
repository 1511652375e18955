"""The target's final hidden states for the whole corpus, computed once: epochs then cost the drafters' work alone."""

from __future__ import annotations

import torch
from rich.progress import Progress
from torch import Tensor
from transformers import PreTrainedModel

from export.drafter.corpus import Collator, batch_plan

BATCH_TOKENS = 131_072
DEVICE_SHARE = 0.6
"""The states stay on the device if they fill at most this share of its free memory, else in host memory."""


@torch.inference_mode()
def target_states(target: PreTrainedModel, collate: Collator, progress: Progress) -> Tensor:
    """Return the states `[predicted tokens of the corpus, hidden]` after the final norm, in the target's dtype.

    A hidden state is `vocabulary / hidden` times smaller than the logits that the shared head makes of it (85 times for
    SmolLM2-135M), so that the whole corpus fits: about 1.2 GB per million tokens there.
    """
    documents = collate.documents
    total = int(documents.predicted.sum())
    home = _home(target, total)
    states = torch.empty(total, target.config.hidden_size, dtype=target.dtype, device=home)
    task = progress.add_task("target states", total=total)
    for chosen in batch_plan(documents, BATCH_TOKENS, seed=0, epoch=0):
        batch = collate(chosen)
        hidden = target.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        states[batch.slots.to(home)] = hidden.flatten(0, 1)[batch.positions].to(home)
        progress.advance(task, len(batch.slots))
    return states


def _home(target: PreTrainedModel, total: int) -> torch.device:
    device: torch.device = target.device
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    fits = total * target.config.hidden_size * target.dtype.itemsize < DEVICE_SHARE * free
    return device if fits else torch.device("cpu")
