"""The folder that a report is written into: new, or one that holds an earlier report."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from runtime.errors import SpeckvError
from runtime.files import replacing_file

PAGE, NUMBERS, PICTURE = "report.html", "replay.json", "rates.svg"
MADE_BY = "python -m runtime report"
"""Stands in every file of a report: what does not hold it is not overwritten."""


def check_folder(folder: Path) -> None:
    """See that a report written into the folder replaces nothing but an earlier report.

    Raises:
        SpeckvError: naming what is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise SpeckvError(f"{folder} is a file: give another --output")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / NUMBERS).exists():
        raise SpeckvError(f"{folder} is not empty and holds no earlier report: give another --output")
    for name in (NUMBERS, PAGE, PICTURE):
        path = folder / name
        if path.exists() and not (path.is_file() and MADE_BY.encode() in path.read_bytes()):
            raise SpeckvError(f"{path} is no report's: move it away, or give another --output")


def write_report(folder: Path, files: dict[str, str]) -> dict[str, int]:
    """Write the files, all or none, and return their sizes in bytes.

    Raises:
        OSError: naming the file that cannot be written.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {name: text.encode("utf-8", "replace") for name, text in files.items()}  # a file's name need not be text
    with ExitStack() as all_written:  # then each takes its place, the first of `files` first
        for name, data in reversed(contents.items()):
            all_written.enter_context(replacing_file(folder / name)).write_bytes(data)
    return {name: len(data) for name, data in contents.items()}
