"""Step records in the published schema, read off greedy traces."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

COLUMNS = (
    "compression",
    "gamma",
    "task",
    "step",
    "accepted",
    "acceptance_rate",
    "tokens_produced",
    "mean_draft_entropy",
    "mean_draft_confidence",
    "max_draft_entropy",
    "min_draft_confidence",
)

Row = tuple[str | int | float, ...]


def step_records(rollouts: NDArray[np.float16], compression: str, task: str, gamma: int) -> Iterator[Row]:
    """Yield one row per step of greedy decoding with a fixed gamma along a trace `[positions, 16, 4]`.

    Under greedy decoding the output does not depend on the draft, so the trace holds every step that the live loop
    would take. A step that the end of the output would cut short is left out: its acceptance rate says nothing.
    """
    position = step = 0
    while position + gamma < len(rollouts):
        accepted_flags, entropies, confidences, _ = rollouts[position, :gamma].astype(np.float64).T
        accepted = int(accepted_flags.sum())
        yield (
            *(compression, gamma, task, step, accepted),
            *(round(accepted / gamma, 4), accepted + 1),
            *(round(entropies.mean(), 4), round(confidences.mean(), 4)),
            *(round(entropies.max(), 4), round(confidences.min(), 4)),
        )
        position += accepted + 1
        step += 1


def to_csv(rows: Iterable[Row], header: Sequence[str] = COLUMNS) -> str:
    """Return the rows as CSV with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
