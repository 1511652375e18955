"""What is compared: anything that decodes a prompt greedily with the pair's target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Generation(NamedTuple):
    """What one run of a contender gave."""

    tokens: list[int]
    """The new tokens; an end-of-sequence token is the last."""
    steps: int
    """Forward passes of the target that gave tokens, the pass over the prompt left out where it is one of its own."""
    drafted: int
    """Tokens proposed to the target, over all steps."""


class Contender(Protocol):
    """Decodes greedily; keeps whatever it learns from one run to the next, as in a server."""

    name: str

    def run(self, prompt: Sequence[int], new_tokens: int) -> Generation:
        """Generate after the prompt's token ids, up to `new_tokens` or the end of the text."""
        ...
