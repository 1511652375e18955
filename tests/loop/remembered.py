"""A model that is asked the same thing many times, and computes it once."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.loop.scorer import CachedModel


class Remembered:
    """A `Scorer` of a model that remembers the logits of every call: text before it, its tokens, rows kept.

    What it has not been asked yet, it computes as a `CachedModel` would, in a call of the same width. Many texts that
    begin alike so cost few forward passes. Another text begins with `rollback(0)`.
    """

    def __init__(self, model: CachedModel) -> None:
        self.model = model
        self.device, self.capacity = model.device, model.capacity
        self.tokens: list[int] = []
        self.forwards = 0
        self._read: list[int] = []  # what the model's cache holds
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...], int], Tensor] = {}

    @property
    def length(self) -> int:
        return len(self.tokens)

    def score(self, tokens: Tensor, keep: int) -> Tensor:
        before, new = self.tokens, tokens.tolist()
        call = tuple(before), tuple(new), keep
        if call not in self._known:
            self._go_back_to(before)
            self._known[call] = self.model.score(tokens, keep)
            self._read, self.forwards = before + new, self.forwards + 1
        self.tokens = before + new
        return self._known[call].clone()

    def rollback(self, length: int) -> None:
        self.tokens = self.tokens[:length]

    def _go_back_to(self, text: list[int]) -> None:
        """Let the model's cache hold just the text: what it holds already stays, the rest is read."""
        same = next((i for i, pair in enumerate(zip(self._read, text, strict=False)) if pair[0] != pair[1]), len(text))
        same = min(same, len(self._read))
        self.model.rollback(same)
        if text[same:]:
            self.model.score(torch.tensor(text[same:], device=self.device), keep=1)
            self.forwards += 1
