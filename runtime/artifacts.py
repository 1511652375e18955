"""Where the shipped model packages are, in a clone and after `pip install` alike."""

from __future__ import annotations

from pathlib import Path

from runtime.contract import PACKAGE_NAME
from runtime.errors import SpeckvError

MODELS = Path(__file__).resolve().parent.parent / "models"
"""The folder of shipped packages: a wheel lays `models/` beside `runtime/`, as a clone does."""


def package_folder(name: str = PACKAGE_NAME) -> Path:
    """Return the folder of the shipped package `name`.

    Raises:
        SpeckvError: if this installation does not hold that package.
    """
    folder = MODELS / name
    if not folder.is_dir():
        raise SpeckvError(f"no model package '{name}' in {MODELS}: reinstall speckv, or run `python -m export`")
    return folder
