"""Phase 2, verify: the target scores every proposed token in one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.loop.scorer import Scorer


def verify(target: Scorer, last: Tensor, proposed: Tensor) -> Tensor:
    """Score the last committed token (int64 `[1]`) and the proposal (`[gamma]`): float32 logits `[gamma + 1, V]`.

    Row i is the target's distribution for the token at the place of proposal i; the last row is for one beyond.
    """
    return target.score(torch.cat([last, proposed]), keep=len(proposed) + 1)
