"""The acceptance model as a call: features in, two probabilities out."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.artifacts import package_folder
from runtime.contract import STOPPER_FILE, STOPPER_NAME
from runtime.decision.session import import_onnxruntime, open_packaged
from runtime.errors import SpeckvError
from runtime.hub import package_from
from runtime.stopper import history, progress

FEATURES = (*history.NAMES, *progress.NAMES)
"""Input order of the model."""


class Stopper:
    """The shipped acceptance model, on onnxruntime's CPU provider: a few thousand multiplications, one call.

    Not for threads to share: a call works in buffers of its own object.

    Args:
        package: folder of a stopper package; the shipped one by default.

    Raises:
        SpeckvError: if the package cannot be had, its graph is not the one in its manifest, or takes other features
            than these.
    """

    _context = struct.Struct(f"{len(history.NAMES)}f")
    _drafted = struct.Struct(f"{len(progress.NAMES)}f")
    _answer = struct.Struct("2f")

    def __init__(self, package: Path | None = None) -> None:
        self.folder = package or package_folder(STOPPER_NAME)
        self._session = open_packaged(self.folder, STOPPER_FILE, "cpu")
        if self._stated_features() != json.dumps(FEATURES):
            raise SpeckvError(
                f"{self.folder / STOPPER_FILE} takes other features than the {len(FEATURES)} of this release: run "
                "`python -m export stopper`, or use the shipped package"
            )
        self._features = np.zeros((1, len(FEATURES)), np.float32)
        self._buffer = self._features.data
        self._probabilities = np.zeros((1, 2), np.float32)
        wrap = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._io = self._session.io_binding()
        self._io.bind_ortvalue_input("features", wrap(self._features))
        self._io.bind_ortvalue_output("probabilities", wrap(self._probabilities))

    def _stated_features(self) -> str | None:
        try:
            stated: str | None = self._session.get_modelmeta().custom_metadata_map.get("features")
        except UnicodeDecodeError:
            return None
        return stated

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

    def begin_step(self, context: Sequence[float]) -> None:
        """Set the features that stay while a step drafts, `History.features`."""
        self._context.pack_into(self._buffer, 0, *context)

    def __call__(self, drafted: Sequence[float]) -> tuple[float, float]:
        """Return the probabilities for `Progress.features`.

        Returns:
            That the last drafted token stands, if those before it do (of no meaning before there is one); and that
            the next one will, if all drafted ones do.
        """
        self._drafted.pack_into(self._buffer, self._context.size, *drafted)
        self._session.run_with_iobinding(self._io)
        accepted, following = self._answer.unpack_from(self._probabilities.data)
        return accepted, following
