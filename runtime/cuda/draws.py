"""Sampling on the device: the draft's tokens drawn from its distributions, and Leviathan's rule for every text.

The distributions, the rule and the draws are the plain loop's own functions; none of them waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from runtime.cuda.graphs import Graphs
from runtime.loop.accept import accept_drawn
from runtime.loop.sampling import Sampling, draw

AT_ONCE = 128
"""Rows of logits whose distributions are computed together: what that takes besides them stays small."""


class Draws:
    """What sampling adds to a pair: the draft's distributions, the random numbers of each call, and its graphs.

    Args:
        sampling: how tokens are drawn.
        logits: the draft's, `[slots, texts, V]`.
        state: of `Graphs`.
    """

    def __init__(self, sampling: Sampling, logits: Tensor, state: Sequence[Tensor]) -> None:
        self.sampling = sampling
        self.graphs = Graphs(state)
        slots, texts, _ = logits.shape
        self.q = torch.zeros_like(logits, dtype=torch.float32)
        # A buffer for each call: one may not have been read when the next is written.
        self._drafting = _on_host((slots, texts), logits.is_cuda)
        self._verifying = _on_host((texts, slots + 1), logits.is_cuda)

    def give_draft(self, slot: int, uniforms: Sequence[float]) -> None:
        """Set the uniform of every text for the token number `slot`."""
        self._drafting.numpy()[slot, : len(uniforms)] = uniforms

    def give_verification(self, uniforms: Sequence[Sequence[float]]) -> None:
        """Set every text's uniforms for its proposals, and the one after them for its own token."""
        for row, values in enumerate(uniforms):
            self._verifying.numpy()[row, : len(values)] = values

    def draft(self, slot: int, logits: Tensor, signals: Tensor, text: Tensor, starts: Tensor) -> None:
        """Draw token number `slot` of every text, and write it into the text and beside its signals.

        Args:
            slot: from 0.
            logits: `[texts, V]`.
            signals: float32 `[texts, SIGNALS]`.
            text: int32 `[texts, positions]`.
            starts: int32 `[texts]`, the places of the last committed tokens.
        """
        uniforms = self._drafting[slot].to(logits.device, non_blocking=True)
        self.q[slot] = self.sampling.probabilities(logits.float())
        token = draw(self.q[slot], uniforms)
        signals[:, 3] = token
        text.scatter_(1, (starts.long() + (slot + 1))[:, None], token.int()[:, None])

    def accept(
        self, logits: Tensor, signals: Tensor, text: Tensor, starts: Tensor, gammas: Tensor, results: Tensor
    ) -> None:
        """Accept proposals by Leviathan's rule, write each text's own token after them, and move on.

        Args:
            logits: the target's, `[texts · width, V]`.
            signals: float32 `[texts · width, SIGNALS]`.
            text: int32 `[texts, positions]`; proposals begin at `starts[b] + 1`.
            starts: int32 `[texts]`, moved past what was accepted.
            gammas: int32 `[texts]`, see `runtime.cuda.tokens.accept`.
            results: float32 `[texts, RESULT]`, likewise.
        """
        texts = len(starts)
        width = len(logits) // texts
        uniforms, gammas = (given.to(logits.device, non_blocking=True) for given in (self._verifying, gammas))
        first = starts.long()[:, None] + 1
        proposed = text.gather(1, first + torch.arange(width - 1, device=text.device)).long()
        parts = [logits[at : at + AT_ONCE] for at in range(0, len(logits), AT_ONCE)]
        p = torch.cat([self.sampling.probabilities(rows.float()) for rows in parts])
        p = p.view(texts, width, -1)
        accepted, token = accept_drawn(p, self.q.transpose(0, 1), proposed, gammas.long(), uniforms[:, :width])
        stands = accepted[:, None]
        place = first + stands  # of a text that takes no part, where its last token is
        text.scatter_(1, place, torch.where(stands < 0, text.gather(1, place), token.int()[:, None]))
        starts += accepted + 1
        own = signals.view(texts, width, -1).gather(1, stands.clamp_min(0)[..., None].expand(-1, 1, 2))[:, 0]
        apart = own.new_zeros(texts, 1).masked_fill_(stands == gammas[:, None], math.nan)
        results.copy_(torch.cat([stands, token[:, None], own, apart, -torch.ones_like(apart)], 1))


def _on_host(shape: tuple[int, int], pinned: bool) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, pin_memory=pinned)
