"""The acceptance model as a call: features in, two probabilities out."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from math import tanh
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.artifacts import package_folder
from runtime.contract import STOPPER_FILE, STOPPER_NAME
from runtime.decision.structure import read_graph
from runtime.errors import SpeckvError
from runtime.hub import package_from
from runtime.manifest import read_files
from runtime.stopper import history, progress

FEATURES = (*history.NAMES, *progress.NAMES)
"""Input order of the model."""
Weights = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""See `Stopper.weights`."""


class Stopper:
    """The shipped acceptance model, sigmoid(relu(x W1 + b1) W2 + b2), on the weights that its graph holds.

    A loop asks it once a drafted token, and a graph of a millisecond a step leaves it a few microseconds: onnxruntime
    takes 2.7 for a call, numpy 1.5. Half of the features stay while a step drafts, and so does their part of the sum.

    Not for threads to share: a call works in buffers of its own object.

    Args:
        package: folder of a stopper package; the shipped one by default.

    Raises:
        SpeckvError: if the package cannot be had, its graph is not the one in its manifest, or takes other features
            than these.
    """

    _pack_context = struct.Struct(f"{len(history.NAMES)}f").pack_into
    _pack_drafted = struct.Struct(f"{len(progress.NAMES)}f").pack_into

    def __init__(self, package: Path | None = None) -> None:
        self.folder = package or package_folder(STOPPER_NAME)
        path = self.folder / STOPPER_FILE
        graph = read_graph(path, *read_files(self.folder, STOPPER_FILE))
        if graph.metadata.get(b"features") != json.dumps(FEATURES).encode():
            raise SpeckvError(
                f"{path} takes other features than the {len(FEATURES)} of this release: run "
                "`python -m export stopper`, or use the shipped package"
            )
        W1, b1, W2, b2 = (graph.weights[name].astype(np.float32) for name in ("W1", "b1", "W2", "b2"))
        first = len(history.NAMES)
        # Inputs end in a 1, and weights in what it adds: b1 for the context, the context's sum for what is drafted.
        self._W_context = np.vstack([W1[:first], b1])
        self._W_drafted = np.vstack([W1[first:], b1])
        self._context_sum: NDArray[np.float32] = self._W_drafted[-1]
        # sigmoid(x) = (1 + tanh(x / 2)) / 2, which cannot overflow; halves are exact
        self._W2 = np.ascontiguousarray(W2.T) / 2  # a row for each answer: so numpy is faster
        self._b_accepted, self._b_following = (b2 / 2).tolist()
        self._context, self._drafted = np.ones(first + 1, np.float32), np.ones(len(progress.NAMES) + 1, np.float32)
        self._context_buffer, self._drafted_buffer = self._context.data, self._drafted.data
        self._hidden, self._zeros = np.zeros_like(b1), np.zeros_like(b1)
        self._answer = np.zeros_like(b2)

    @classmethod
    def from_pretrained(cls, path_or_repo_id: Path | str, revision: str | None = None) -> Stopper:
        """Make a stopper from a folder, or from a Hugging Face Hub repository, of which only the graph is downloaded.

        Args:
            path_or_repo_id: folder of a stopper package, or OWNER/NAME of a repository with the same files.
            revision: branch, tag or commit of the repository.

        Raises:
            SpeckvError: as above, or if the repository cannot be had.
        """
        return cls(package_from(path_or_repo_id, revision, [STOPPER_FILE]))

    def __reduce__(self) -> tuple[type[Stopper], tuple[Path]]:
        """A copy, or a stopper sent to another process, opens its package anew; it stands between two steps."""
        return Stopper, (self.folder,)

    @property
    def weights(self) -> Weights:
        """What a call adds to `context`, for those who compute it elsewhere.

        Returns:
            A row for each of `progress.NAMES`, `[features, units]`; a row for each answer, `[2, units]`; `[2]`:
            sigmoid(W2 · relu(drafted W + context) + b2).
        """
        biases = np.array([self._b_accepted, self._b_following], np.float32)
        return self._W_drafted[:-1], (2 * self._W2).astype(np.float32), 2 * biases

    @property
    def context(self) -> NDArray[np.float32]:
        """What `begin_step` set: the context's part of the sum, `[units]`."""
        return self._context_sum

    def begin_step(self, context: Sequence[float]) -> None:
        """Set the features that stay while a step drafts, `History.features`."""
        self._pack_context(self._context_buffer, 0, *context)
        self._context.dot(self._W_context, self._context_sum)

    def __call__(self, drafted: Sequence[float]) -> tuple[float, float]:
        """Return the probabilities for the features that change, `Progress.add`'s or `NOTHING`.

        Returns:
            That the last drafted token stands, if those before it do (of no meaning before there is one); and that
            the next one will, if all drafted ones do.
        """
        self._pack_drafted(self._drafted_buffer, 0, *drafted)
        hidden = self._drafted.dot(self._W_drafted, self._hidden)
        np.maximum(hidden, self._zeros, out=hidden)
        accepted, following = self._W2.dot(hidden, self._answer).tolist()
        return 0.5 + 0.5 * tanh(accepted + self._b_accepted), 0.5 + 0.5 * tanh(following + self._b_following)
