"""A target whose verifying calls can be looked at."""

from __future__ import annotations

from torch import Tensor

from runtime.loop.scorer import CachedModel


class Watched(CachedModel):
    """A target that remembers the logits of its last call."""

    last: Tensor

    def score(self, tokens: Tensor, keep: int) -> Tensor:
        self.last = super().score(tokens, keep)
        return self.last
