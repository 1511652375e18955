"""Timing one run on a device, and the memory it takes there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import torch

from runtime.bench.contender import Contender, Generation


class Clock:
    """Times runs, until the device has done everything; keeps each contender's peak memory on a CUDA device.

    A contender's peak is what the models take, what was prepared for it or its first run left on the device (static
    caches, graphs), and the most that any later run took for itself: nothing of the other contenders.

    Args:
        device: with the models on it, and nothing else.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device if device.type == "cuda" else None
        self._models = torch.cuda.memory_allocated(device) if self.cuda else 0
        self._kept: dict[str, int] = {}
        self._taken: dict[str, int] = {}

    def prepared(self, names: Iterable[str]) -> None:
        """Count what has come to lie on the device since the start as each of these contenders' own."""
        if self.cuda:
            kept = torch.cuda.memory_allocated(self.cuda) - self._models
            self._kept |= dict.fromkeys(names, kept)

    def time(self, contender: Contender, prompt: Sequence[int], new_tokens: int) -> tuple[Generation, float]:
        """Run the contender once; return what it gave, and the seconds."""
        before = self._begin()
        start = time.perf_counter()
        generation = contender.run(prompt, new_tokens)
        if self.cuda:
            torch.cuda.synchronize(self.cuda)
        seconds = time.perf_counter() - start
        self._end(contender.name, before)
        return generation, seconds

    def peak_bytes(self, name: str) -> int | None:
        """Return the contender's peak memory on the device; None on the CPU."""
        return self._models + self._kept[name] + self._taken.get(name, 0) if self.cuda else None

    def _begin(self) -> int:
        if not self.cuda:
            return 0
        torch.cuda.synchronize(self.cuda)
        torch.cuda.reset_peak_memory_stats(self.cuda)
        return torch.cuda.memory_allocated(self.cuda)

    def _end(self, name: str, before: int) -> None:
        if not self.cuda:
            return
        if name in self._kept:
            peak = torch.cuda.max_memory_allocated(self.cuda)
            self._taken[name] = max(self._taken.get(name, 0), peak - before)
        else:
            self._kept[name] = max(torch.cuda.memory_allocated(self.cuda) - before, 0)
