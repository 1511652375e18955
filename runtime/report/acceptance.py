"""How acceptance falls along the draft, per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.prompts import OVERALL
from runtime.replay.traces import LOOKAHEAD, Text


@dataclass(frozen=True)
class Acceptance:
    """By place in the draft, 1 to 16; None where no text is long enough to tell."""

    conditional: list[float | None]
    """Share of tokens accepted at a place, of those whose predecessors were all accepted."""
    survival: list[float | None]
    """Share of drafts whose tokens up to a place would all be accepted: the product of the conditional shares."""


def acceptance_by_task(texts: Sequence[Text]) -> dict[str, Acceptance]:
    """Return the acceptance of each task, and of all texts as "overall"; every position starts one draft.

    A draft that runs past the end of its text counts up to the end (the product-limit estimate, Kaplan 1958).
    """
    tasks = dict.fromkeys(text.task for text in texts)
    parts = {OVERALL: list(texts), **{task: [text for text in texts if text.task == task] for task in tasks}}
    return {task: _acceptance(part) for task, part in parts.items()}


def _acceptance(texts: Sequence[Text]) -> Acceptance:
    drafts = [
        (accepted, text.positions - position) for text in texts for position, accepted in enumerate(text.accepted)
    ]
    conditional: list[float | None] = []
    survival: list[float | None] = []
    surviving: float | None = 1.0
    for place in range(1, LOOKAHEAD + 1):
        reached = sum(accepted >= place - 1 and place <= left for accepted, left in drafts)
        share = sum(accepted >= place for accepted, _ in drafts) / reached if reached else None
        surviving = None if share is None or surviving is None else surviving * share
        conditional.append(share)
        survival.append(surviving)
    return Acceptance(conditional, survival)
