"""The random numbers of a text, which may be looked at before they are used up."""

from __future__ import annotations

import torch


class Uniforms:
    """A text's numbers in [0, 1): those that `runtime.loop.generate.speculate` draws with the same seed."""

    BLOCK = 64
    """Numbers that are made at once."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._next: list[float] = []

    def ahead(self, count: int) -> list[float]:
        """Return the next `count`, which stay the next."""
        while len(self._next) < count:
            self._next += torch.rand(self.BLOCK, generator=self._generator, dtype=torch.float64).tolist()
        return self._next[:count]

    def take(self, count: int) -> list[float]:
        """Return the next `count`."""
        taken = self.ahead(count)
        del self._next[:count]
        return taken
