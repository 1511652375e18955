"""What a user's own input, files and models can cause."""

LONGEST = 2000
"""Characters of a message: what a file says of itself may be any length."""


class SpeckvError(Exception):
    """Bad input or an unusable machine, in one printable line: the thing, the place and the next step.

    The command lines print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        # Names and texts out of files come along: none may begin a line, steer a terminal or be no text at all.
        shown = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown))


class TargetError(SpeckvError):
    """The target failed in the midst of a text; its own exception is the cause. What was generated before stands."""
