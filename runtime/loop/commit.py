"""Phase 4, commit: the accepted tokens and the target's own join the text; the caches forget the rest."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from runtime.loop.scorer import Scorer


def commit(
    context: Tensor, new: list[int], scorers: tuple[Scorer, Scorer], eos: Collection[int]
) -> tuple[Tensor, list[int]]:
    """Append `new` to the context (int64 `[n]`), ending at the first end-of-sequence token.

    Both caches are cut back to the committed text without its last token, which is still to be scored.

    Returns:
        The new context, and the tokens that were appended.
    """
    end = next((i for i, token in enumerate(new) if token in eos), len(new) - 1)
    kept = new[: end + 1]
    context = torch.cat([context, torch.tensor(kept, device=context.device)])
    for scorer in scorers:
        scorer.rollback(min(scorer.length, len(context) - 1))
    return context, kept
