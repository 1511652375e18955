"""Standard output and standard error, whatever they are: missing, full, closed by their reader."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def open_missing() -> None:
    """Let a process that was started without one of them (`>&-`) write to it all the same: nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  (for the whole process)


def discard_output() -> None:
    """Send what is still buffered nowhere: the interpreter's own flush at exit would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_console(stderr: bool = False) -> Console:
    """Return a console that prints texts as they are: names out of files may look like rich's markup or emoji codes."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False)
