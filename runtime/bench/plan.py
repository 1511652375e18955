"""What a comparison compares."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.prompts import Prompt


@dataclass(frozen=True)
class Plan:
    """What to compare, and for how long."""

    draft: str | None
    target: str | None
    systems: tuple[str, ...]
    """Names out of `runtime.bench.others.SYSTEMS`."""
    policies: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    max_new_tokens: int
    repeats: int
    """Timed runs of each prompt at most."""
    seconds: float | None
    """For all repeats together: slow contenders repeat less, or not at all; None repeats all of them."""
    device: str
