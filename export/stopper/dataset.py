"""The training set of the acceptance model: traces, walked several times, with worse and better pairs among them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.stopper.pairs import better, unverified, worse
from export.stopper.rows import Rows, text_rows
from runtime.replay.traces import Text, read_traces, verified_beside
from runtime.stopper.history import History

WALKS = 2
"""Times that every text is walked, with other step lengths each."""
FRESH = 0.5
"""Share of the texts that begin with nothing known of the pair; the others go on from what came before."""
UNVERIFIED = 0.25
"""Share of the walks in which the target's distributions are not reported."""
WORSE_WEIGHT, BETTER_WEIGHT = 0.3, 0.1
"""Weight of the rows of altered pairs."""


@dataclass(frozen=True)
class Traces:
    """One file of traces, with the file of what verification left behind where there is one."""

    path: Path
    texts: list[Text]
    sha256: str
    """Of the file of traces."""
    verified_sha256: str | None
    """Of the file beside it."""

    @staticmethod
    def read(path: Path) -> Traces:
        """Read both; errors are those of `read_traces`."""
        texts, beside = read_traces(path), verified_beside(path)
        return Traces(path, texts, _sha256(path), _sha256(beside) if beside.exists() else None)

    def source(self) -> dict[str, Any]:
        """Return what a package says of the file."""
        hashes = {"sha256": self.sha256, "verified_sha256": self.verified_sha256}
        return {"file": self.path.name, "texts": len(self.texts), **hashes}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def training_rows(files: Sequence[Traces], seed: int, progress: Callable[[], None] = lambda: None) -> Rows:
    """Return the rows of all files; `Rows.texts` numbers the texts through. `progress` is told of every text walked."""
    random = np.random.default_rng(seed)
    parts: list[Rows] = []
    for walk in range(WALKS):
        first = 0
        for traces in files:
            pair = History()
            for number, text in enumerate(traces.texts, start=first):
                parts += _walks(text, number, pair, random, walk == 0)
                progress()
            first += len(traces.texts)
    return Rows.join(parts)


def _walks(text: Text, number: int, pair: History, random: np.random.Generator, first: bool) -> list[Rows]:
    """Walk the text as it is, as a worse pair would have it, and, the first time, as a better one would."""
    seen = unverified(text) if random.random() < UNVERIFIED else text
    rows = [text_rows(seen, number, History() if random.random() < FRESH else pair, random)]
    altered, history = worse(seen, random), History()
    if random.random() < FRESH:  # the second text of such a pair: the first taught what there is to know of it
        text_rows(altered, number, history, random)
    rows.append(text_rows(altered, number, history, random, WORSE_WEIGHT))
    if first:
        rows.append(text_rows(better(seen, random), number, History(), random, BETTER_WEIGHT))
    return rows


def folds(files: Sequence[Traces], count: int, seed: int) -> np.ndarray:
    """Return the fold of every text, int64: a prompt's texts share one, whatever file or precision they are of."""
    keys = sorted({text.key for traces in files for text in traces.texts})
    order = np.random.default_rng(seed).permutation(len(keys))
    fold_of = {keys[place]: rank % count for rank, place in enumerate(order.tolist())}
    return np.array([fold_of[text.key] for traces in files for text in traces.texts])
