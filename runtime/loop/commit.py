"""Phase 4, commit: the accepted tokens and the target's own join the text; the target's cache forgets the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from runtime.loop.failure import targets_own
from runtime.loop.scorer import Scorer

Ends = Callable[[Tensor, Sequence[int]], bool]
"""Whether a text ends here, given what was committed before the step (int64 `[n]`) and the step's tokens so far, at
least one. Asked once for every token, in order, until it says yes."""


def commit(
    context: Tensor, new: list[int], target: Scorer, eos: Collection[int], stop: Ends | None = None
) -> tuple[Tensor, list[int], bool]:
    """Append `new` to the context (int64 `[n]`), up to the first end-of-sequence token or where `stop` says so.

    The target's cache is cut back to the committed text without its last token, which is still to be scored.

    Returns:
        The new context, the tokens that were appended, and whether the text has ended.
    """
    kept: list[int] = []
    ended = False
    while not ended and len(kept) < len(new):
        kept.append(new[len(kept)])
        ended = kept[-1] in eos or (stop is not None and stop(context, kept))
    context = torch.cat([context, torch.tensor(kept, device=context.device)])
    with targets_own(len(context)):
        target.rollback(min(target.length, len(context) - 1))
    return context, kept, ended
