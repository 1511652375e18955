"""What a user's own input, files and models can cause."""

from __future__ import annotations

import errno

LONGEST = 2000
"""Characters of a message: what a file says of itself may be any length."""


class SpeckvError(Exception):
    """Bad input or an unusable machine, in one printable line: the thing, the place and the next step.

    The command lines print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        # Names and texts out of files come along: none may begin a line, steer a terminal or be no text at all.
        super().__init__(printable(message if len(message) <= LONGEST else f"{message[:LONGEST]}…"))


class TargetError(SpeckvError):
    """The target failed in the midst of a text; its own exception is the cause. What was generated before stands."""


def printable(text: str) -> str:
    """Return a text with its control characters, and what is no text, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def refused(error: OSError) -> SpeckvError:
    """Return what the system refused: the file where it names one, its reason, the next step."""
    place = "" if error.filename is None else f"{error.filename}: "
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SpeckvError(f"{place}{error.strerror or error}: {'free space, or ' if full else ''}choose another place")
