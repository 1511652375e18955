"""The same speculation length at every step."""

from __future__ import annotations

from runtime.policies.policy import Drafted, Memoryless


class Fixed(Memoryless):
    """Always drafts `length` tokens; `Fixed(0)` is plain decoding."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.name = f"fixed:{length}" if length else "none"

    def gamma(self, drafted: Drafted) -> int:  # noqa: ARG002  (the point of this policy)
        """Return `length`, whatever was drafted."""
        return self.length
