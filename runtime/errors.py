"""The one error type that a user's own input can cause."""


class SpeckvError(Exception):
    """Bad input or an unusable machine, in one line: the thing, the place and the next step.

    The command lines print it without a traceback and exit with code 2.
    """
