"""Files that several processes make together, each by whoever comes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout


def make_once(path: Path, make: Callable[[Path], None], wait: bool = False) -> bool:
    """Call `make(path)` unless the file exists; return whether it does now.

    A file that another process is making is left to it: returns False at once, or after it with `wait`, in which case
    the answer is always True. The lock goes with the process that holds it, so that a killed one blocks nobody.
    """
    try:
        with FileLock(f"{path}.lock", timeout=-1 if wait else 0):
            if not path.exists():
                make(path)
            return True
    except Timeout:
        return False
