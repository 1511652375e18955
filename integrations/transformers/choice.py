"""transformers' logits processors as the loop's way of choosing a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList


class ProcessorChoice:
    """Applies logits processors position by position, each with the ids before its token; a `TokenChoice`.

    Args:
        processors: as `generate` builds them.
        greedy: whether the likeliest token is always taken.
        device: where the processors keep their tensors.
    """

    logits: Tensor
    """float32 `[n, V]`: those of the last call, unprocessed."""
    processed: Tensor
    """float32 `[n, V]`: what the processors made of them."""

    def __init__(self, processors: LogitsProcessorList, greedy: bool, device: torch.device) -> None:
        self.processors = processors
        self.greedy = greedy
        self.device = device

    def scores(self, logits: Tensor, context: Tensor, drafted: Sequence[Tensor]) -> Tensor:
        """Return the processed scores, float32 `[n, V]`; see `TokenChoice.scores`."""
        self.logits = self.processed = logits.to(self.device)
        if self.processors:
            self.processed = self._processed(context, drafted)
        return _drawable(self.processed).to(logits.device)

    def _processed(self, context: Tensor, drafted: Sequence[Tensor]) -> Tensor:
        ids = torch.cat([context.to(self.device), *(token[None].to(self.device) for token in drafted)])[None]
        first = ids.shape[1] + 1 - len(self.logits)
        # A copy of each row: processors may write into it.
        rows = [self.processors(ids[:, : first + i], row.clone()) for i, row in enumerate(self.logits[:, None])]
        return torch.cat(rows)


def _drawable(scores: Tensor) -> Tensor:
    """Let any token be drawn where the processors forbid all: a proposal may lead to where the target never goes."""
    return torch.where(scores.amax(-1, keepdim=True).isneginf(), 0.0, scores)
