"""Numbers that kernels write straight into the host's memory, and that the host reads as soon as they are there."""

from __future__ import annotations

import torch

UNWRITTEN = -2.0
"""What no kernel writes: entropies, probabilities, distances and tokens are ≥ 0 or NaN, and accepted tokens and spares
≥ −1."""
POLLS = 4096
"""Looks at a slot, half a millisecond or more, before the device is asked whether it still works."""


class Mailbox:
    """Slots of numbers, each written by one call on the device at a time.

    Reading them needs neither an event nor a copy, which take longer than a short call's last kernel. A call must write
    every number of its slot once: then all of it is there where none is `UNWRITTEN` any more, in whatever order the
    numbers arrive. Reading a slot empties it, so that little is left to do before a call begins: the device waits.

    Args:
        slots: calls that may be under way at the same time.
        rows: of each slot.
        width: numbers in a row.
        device: that writes them.
    """

    def __init__(self, slots: int, rows: int, width: int, device: torch.device) -> None:
        self.numbers = torch.full((slots, rows, width), UNWRITTEN, pin_memory=device.type == "cuda")
        self._slots = list(self.numbers.numpy().reshape(slots, -1))
        self._unread = [False] * slots
        self._width, self._device = width, device

    def begin(self, slot: int) -> None:
        """Make ready for a call. If one that nobody has read may still be under way, wait for it."""
        # What it would write later would be taken for the next one's.
        if self._unread[slot]:
            _wait(self._device)
            self._slots[slot].fill(UNWRITTEN)
        self._unread[slot] = True

    def read(self, slot: int) -> list[list[float]]:
        """Wait until the slot's call has written all numbers, and return its rows.

        Raises:
            RuntimeError: if the device has failed, or has nothing to do any more and has not written them.
        """
        numbers, idle = self._slots[slot], False
        look = numbers.tolist
        while True:
            for _ in range(POLLS):
                if UNWRITTEN not in (found := look()):
                    numbers.fill(UNWRITTEN)
                    self._unread[slot] = False
                    return [found[at : at + self._width] for at in range(0, len(found), self._width)]
            if idle:
                raise RuntimeError("the device has done all its work, and a call has left no result on the host")
            idle = _idle(self._device)


def _idle(device: torch.device) -> bool:
    """Whether the device has done all its work; the kernels' interpreter always has.

    Raises:
        RuntimeError: if it has failed.
    """
    return device.type != "cuda" or torch.cuda.current_stream(device).query()


def _wait(device: torch.device) -> None:
    """Wait until the device has done all its work, or raise as `_idle` does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
