"""A package by its folder, or by its Hugging Face Hub repository, which takes huggingface_hub and a network."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.contract import MANIFEST_FILE
from runtime.errors import SpeckvError

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_telemetry = threading.Lock()


def is_repo_id(path_or_repo_id: Path | str) -> bool:
    """Whether a Hub repository is meant: OWNER/NAME as text, where there is no such folder."""
    text = path_or_repo_id if isinstance(path_or_repo_id, str) else ""
    return REPO_ID.fullmatch(text) is not None and not _exists(text)


def package_from(path_or_repo_id: Path | str, revision: str | None, files: Sequence[str]) -> Path:
    """Return the local folder of a package: the one that is named, or the cached snapshot of a Hub repository.

    Of a repository only `files` and the manifest are downloaded, and nothing that the cache holds already. Whoever
    reads the files checks them (`runtime.manifest`).

    Args:
        path_or_repo_id: a folder, or OWNER/NAME of a Hub repository. A folder of that name comes first.
        revision: branch, tag or commit of the repository; its main branch by default.
        files: names of the files that will be used.

    Raises:
        SpeckvError: if the network, huggingface_hub, the repository or the revision cannot be had; if a revision is
            asked of a folder.
    """
    if is_repo_id(path_or_repo_id):
        return _download(str(path_or_repo_id), revision, [MANIFEST_FILE, *files])
    if not str(path_or_repo_id).strip() or not _exists(path_or_repo_id):
        raise SpeckvError(f"no folder {str(path_or_repo_id)!r}, which is no Hub repository (OWNER/NAME) either")
    if revision is not None:
        raise SpeckvError(f"{path_or_repo_id} is a folder: a revision ({revision!r}) is that of a Hub repository")
    return Path(path_or_repo_id)


def _exists(path: Path | str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for text that is no path at all


def _download(repo_id: str, revision: str | None, files: list[str]) -> Path:
    hub = _import_hub()
    errors, place = hub.errors, f"Hub repository '{repo_id}'"
    try:
        with _telemetry_off(hub.constants):
            return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=files))
    except errors.RepositoryNotFoundError:  # gated ones included
        raise SpeckvError(
            f"{place} does not exist, nor does such a folder: check the name, or log in if it is private or gated"
        ) from None
    except errors.RevisionNotFoundError:
        raise SpeckvError(f"{place} has no revision {revision!r}: give a branch, tag or commit that it has") from None
    except errors.LocalEntryNotFoundError:
        raise SpeckvError(f"{place} is not in the cache, {_obstacle(hub.constants)}") from None
    except Exception as error:  # the network library behind it is another one in every generation of huggingface_hub
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SpeckvError(f"{place} cannot be downloaded ({reason}): try again, or give a folder") from error


def _obstacle(constants: Any) -> str:
    if constants.HF_HUB_OFFLINE:
        return "and offline mode is on: unset HF_HUB_OFFLINE for the first use, or give a folder"
    return "and the Hub cannot be reached: check the network, or give a folder"


def _import_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise SpeckvError(
            f'huggingface_hub cannot be imported ({error}): `pip install "speckv[hub]"`, or give a folder'
        ) from error
    return huggingface_hub


@contextmanager
def _telemetry_off(constants: Any) -> Iterator[None]:
    """Keep what else is installed, and who runs the process, out of the requests; afterwards all is as it was."""
    with _telemetry:
        before = constants.HF_HUB_DISABLE_TELEMETRY
        constants.HF_HUB_DISABLE_TELEMETRY = True
        try:
            yield
        finally:
            constants.HF_HUB_DISABLE_TELEMETRY = before
