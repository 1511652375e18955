"""The training text as token arrays, and the order in which it is read."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.errors import SpeckvError
from runtime.files import replacing_file
from runtime.npz import read_npz

Ints = NDArray[np.int64]

WIDTH_STEP = 32
"""Batch widths are multiples of this many tokens: few distinct shapes, little padding."""

LARGEST = 16 << 30
"""Bytes of a file of documents."""
AGAIN = "remove it, and the same command makes it again"

TEXT_SUFFIXES = (".py", ".md", ".rst", ".txt")
TEXT_PIECE_TOKENS = 512


@dataclass(frozen=True)
class Documents:
    """Token sequences, laid end to end. The first `prompts[i]` tokens of document i are context: never predicted."""

    tokens: NDArray[np.int32]
    lengths: Ints
    prompts: Ints

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.lengths)

    @property
    def predicted(self) -> Ints:
        """Number of predicted tokens per document."""
        return self.lengths - self.prompts

    def save(self, path: Path, **extra: float) -> None:
        """Write to `path` (npz) at once or not at all, with `extra` numbers beside the arrays."""
        with replacing_file(path, f"{path.name}.tmp.npz") as partial:
            np.savez(partial, tokens=self.tokens, lengths=self.lengths, prompts=self.prompts, **extra)  # type: ignore[arg-type]

    @staticmethod
    def load(path: Path) -> Documents:
        """Read what `save` wrote.

        Raises:
            SpeckvError: if the file is damaged, or holds something else.
        """
        arrays = read_npz(path, LARGEST, AGAIN)
        try:
            documents = Documents(*(arrays[name] for name in ("tokens", "lengths", "prompts")))
        except KeyError as error:
            raise SpeckvError(f"{path} holds no {error}: {AGAIN}") from None
        lengths, prompts = documents.lengths, documents.prompts
        whole = all(array.ndim == 1 and array.dtype.kind == "i" for array in vars(documents).values())
        if not whole or lengths.shape != prompts.shape or ((prompts < 0) | (prompts > lengths)).any():
            raise SpeckvError(f"{path} holds no documents: {AGAIN}")
        if int(lengths.sum()) != len(documents.tokens) or (documents.tokens < 0).any():
            raise SpeckvError(f"{path} holds other tokens than its lengths say: {AGAIN}")
        return documents

    @staticmethod
    def of(sequences: list[list[int]], prompts: list[int]) -> Documents:
        """Lay token lists end to end."""
        tokens = np.fromiter((token for sequence in sequences for token in sequence), np.int32)
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        return Documents(tokens, lengths, np.array(prompts, np.int64))

    def sequences(self) -> list[list[int]]:
        """Return the token lists that `of` laid end to end."""
        return [part.tolist() for part in np.split(self.tokens, np.cumsum(self.lengths)[:-1])] if len(self) else []

    @staticmethod
    def join(parts: list[Documents]) -> Documents:
        """Return the documents of all parts, in order."""
        return Documents(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.prompts for part in parts]),
        )


@dataclass(frozen=True)
class Batch:
    """Documents side by side, padded on the right, which a causal model needs no mask for.

    `input_ids` int64 `[rows, width]`; for the t predicted tokens: `positions` int64 `[t]` (of the hidden state that
    predicts the token, in the flattened batch), `slots` int64 `[t]` (the token's number among all predicted tokens of
    the corpus), `labels` int64 `[t]`.
    """

    input_ids: Tensor
    positions: Tensor
    slots: Tensor
    labels: Tensor


def batch_plan(documents: Documents, batch_tokens: int, seed: int, epoch: int) -> list[Ints]:
    """Return the document numbers of each batch of an epoch: every document once, lengths alike within a batch."""
    random = np.random.default_rng([seed, epoch])
    widths = -(-documents.lengths // WIDTH_STEP) * WIDTH_STEP
    order = np.lexsort((random.random(len(documents)), -widths))
    plan, start = [], 0
    while start < len(order):
        rows = max(1, batch_tokens // int(widths[order[start]]))
        plan.append(order[start : start + rows])
        start += rows
    return [plan[i] for i in random.permutation(len(plan))]


class Collator:
    """Makes batches from document numbers."""

    def __init__(self, documents: Documents, device: torch.device) -> None:
        self.documents = documents
        self.device = device
        self.starts = np.cumsum(documents.lengths) - documents.lengths
        self.slots = np.cumsum(documents.predicted) - documents.predicted

    def __call__(self, chosen: Ints) -> Batch:
        """Return the batch of the chosen documents, on the device."""
        lengths, prompts = self.documents.lengths[chosen, None], self.documents.prompts[chosen, None]
        width = -(-int(lengths.max()) // WIDTH_STEP) * WIDTH_STEP
        column = np.arange(width)
        index = np.minimum(self.starts[chosen, None] + column, len(self.documents.tokens) - 1)
        ids = np.where(column < lengths, self.documents.tokens[index], 0)
        predicting = (column >= prompts - 1) & (column < lengths - 1)
        slots = self.slots[chosen, None] + column - (prompts - 1)
        labels = np.roll(ids, -1, axis=1)
        arrays = (ids, np.flatnonzero(predicting), slots[predicting], labels[predicting])
        return Batch(*(self._upload(array) for array in arrays))

    def _upload(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array.astype(np.int64))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def machine_text(tokenizer: Any, tokens: int, seed: int, roots: list[Path] | None = None) -> Documents:
    """Return about `tokens` tokens of source code and documentation found on this machine.

    The sample is deterministic: files in the order of a hash of their relative path and the seed, each cut into pieces
    of 512 tokens, at most eight pieces of one file.
    """
    roots = roots or [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib")), Path("/usr/share/doc")]
    pieces: list[list[int]] = []
    found = 0
    for path in _text_files(roots, seed):
        if found >= tokens:
            break
        text = path.read_text(encoding="utf-8", errors="ignore")[: 8 * TEXT_PIECE_TOKENS * 4]
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: 8 * TEXT_PIECE_TOKENS]
        cuts = [ids[i : i + TEXT_PIECE_TOKENS] for i in range(0, len(ids), TEXT_PIECE_TOKENS)]
        pieces += [cut for cut in cuts if len(cut) >= WIDTH_STEP]
        found += len(ids)
    return Documents.of(pieces, [1] * len(pieces))


def _text_files(roots: list[Path], seed: int) -> list[Path]:
    ranked: dict[str, Path] = {}
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                if path.suffix in TEXT_SUFFIXES and path.is_file() and 1_000 < path.stat().st_size < 1_000_000:
                    key = f"{seed}/{path.relative_to(root).as_posix()}"
                    ranked[hashlib.sha256(key.encode()).hexdigest()] = path
    return [ranked[digest] for digest in sorted(ranked)]
